"""The flags of both taggers: one name, and one default, for the same thing."""

import pytest

pytest.importorskip("absl")

from funnel.config.settings import flag_groups
from funnel_tf.cli.programs import PROGRAMS
from funnel_torch.cli.settings.tagger import TaggerSettings
from tf_program_runs import parse_settings

# Flags of token classification alone, with their defaults.
COMMON = {
    "label_column": None,
    "labels": None,
    "metric": None,
    "overlap": 32,
    "random_decoder": False,
    "scheme": "auto",
    "text_column": None,
    "train_file": None,
    "dev_file": None,
    "test_file": None,
    "prediction_format": "txt",
    "write_logits": False,
    "data_dir": "",
}
PYTORCH = {"dataset": None, "max_length": 128, "test_only": False, "write_prediction": False}
TENSORFLOW = {"task_name": None, "max_seq_length": 128, "do_predict": False, "do_train": False}


def _defaults(program):
    return {flag.name: flag.default for group in flag_groups(program) for flag in group.flags}


@pytest.mark.parametrize(
    ("program", "own"), [(TaggerSettings, PYTORCH), (PROGRAMS["tagger"], TENSORFLOW)]
)
def test_flags_and_defaults_are_frozen(program, own):
    found = _defaults(program)
    assert COMMON | own == {name: found[name] for name in COMMON | own}


def test_tensorflow_parses_them():
    settings = parse_settings("tagger", "--max_seq_length=64", "--overlap=8", "--scheme=IOB1")
    assert (settings.windows.max_length, settings.windows.overlap) == (64, 8)
    assert settings.files.scheme == "iob1"
