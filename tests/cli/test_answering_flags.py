"""The frozen command lines of pytorch/squad.py and pytorch/race.py."""

import pytest

pytest.importorskip("torch")

from funnel.cli.flags import make_parser
from funnel_torch.cli.settings.classifier import ClassifierSettings
from funnel_torch.cli.settings.race import RaceSettings
from funnel_torch.cli.settings.squad import SquadSettings

# Flags of classifier.py that make no sense for these tasks; the others are shared, defaults too.
CLASSIFIERS = {
    *("dataset", "data_dir", "test_only", "write_prediction", "do_submit", "submit_dir"),
    *("indexed_predictions", "dev_fraction", "no_dev"),
    *("text_column", "text_b_column", "label_column", "labels", "regression", "metric"),
    *("train_file", "dev_file", "test_file", "no_header", "delimiter", "id_column", "encoding"),
    *("multi_label", "label_separator", "class_weights", "label_smoothing", "balanced_sampling"),
    "task_module",
}
LONG = {"max_length": 512}
SQUAD = LONG | {
    "train_file": "",
    "predict_file": "",
    "train_version": "v2",
    "eval_version": "v2",
    "do_train": False,
    "do_predict": False,
    "predict_dir": "",
    "save_logits": False,
    "target_eval_key": "best_f1",
    "max_query_length": 64,
    "doc_stride": 128,
    "keep_accents": False,
    "prepro_split": None,
    "num_proc": 1,
    "debug_mode": False,
    "conditional_end": True,
    "use_answer_class": True,
    "use_masked_loss": True,
    "ans_loss_weight": 0.5,
    "cls_loss_weight": 0.5,
    "start_n_top": 5,
    "end_n_top": 5,
    "n_best_size": 5,
    "max_answer_length": 64,
    "do_ensemble": False,
    "ensemble_ckpts": None,
    "ensemble_output_file": "",
    "na_threshold": 0.0,
    "search_threshold": False,
}
RACE = LONG | {
    "data_dir": "",
    "do_train": False,
    "do_eval": False,
    "eval_split": "dev",
    "eval_model_dir": "",
    "max_qa_length": 128,
    "write_prediction": False,
}
# Other names of a flag, and the negative forms of switches.
ALIASES = {"max_seq_length", "eval_batch_size"}
SWITCHES = {"no-conditional_end", "no-use_answer_class", "no-use_masked_loss"}


def flag_names(parser):
    found = {o.removeprefix("--") for a in parser._actions for o in a.option_strings}
    return found - {"-h", "help"}


@pytest.fixture(scope="module")
def parsers():
    programs = {"shared": ClassifierSettings, "squad": SquadSettings, "race": RaceSettings}
    return {name: make_parser(settings, "") for name, settings in programs.items()}


@pytest.mark.parametrize(
    ("program", "own", "more"),
    [("squad", SQUAD, ALIASES | SWITCHES | {"predict_batch_size"}), ("race", RACE, ALIASES)],
)
def test_names_and_defaults_are_frozen(parsers, program, own, more):
    shared = vars(parsers["shared"].parse_args([]))
    expected = {name: shared[name] for name in shared.keys() - CLASSIFIERS} | own
    assert vars(parsers[program].parse_args([])) == expected
    more = more | (flag_names(parsers["shared"]) - shared.keys() - {"task_name"})
    assert flag_names(parsers[program]) == {*expected, *more}


@pytest.mark.parametrize("name", ["predict_batch_size", "eval_batch_size"])
def test_batch_sizes_by_the_original_names(parsers, name):
    assert parsers["squad"].parse_args([f"--{name}=7"]).valid_bsz == 7
    if name == "eval_batch_size":
        args = parsers["race"].parse_args([f"--{name}=7"])
        assert (args.valid_bsz, args.test_bsz) == (7, 7)
