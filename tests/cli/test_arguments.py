"""Command lines before they are parsed: other spellings, settings from files, slips."""

import json
import re

import pytest

from funnel.cli.arguments import KnownFlags, prepare
from funnel.cli.flags import parse_settings
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings.classifier import ClassifierSettings
from funnel_torch.cli.settings.extract_features import TorchExtractionSettings
from funnel_torch.cli.settings.pretrain import PretrainSettings


def torch(*arguments, program=ClassifierSettings):
    return parse_settings(program, "", arguments)


def tensorflow(*arguments, program="classifier"):
    pytest.importorskip("absl")
    from tf_program_runs import parse_settings

    return parse_settings(program, *arguments)


def test_names_of_the_other_backend():
    settings = torch(
        "--task_name=rte", "--learning_rate=3e-5", "--train-batch-size=7", "--max_seq_length", "9"
    )
    assert (settings.task.dataset, settings.training.lr) == ("rte", 3e-5)
    assert (settings.training.batches.batch_size, settings.data.max_length) == (7, 9)
    assert settings.given == {"dataset", "lr", "train_bsz", "max_length"}
    settings = tensorflow("--dataset=rte", "--lr=3e-5", "--train_bsz=7", "--max_length", "9")
    assert (settings.task.task_name, settings.training.learning_rate) == ("rte", 3e-5)
    assert settings.training.train_batch_size == 7 and settings.classification.max_seq_length == 9
    assert settings.given == {"task_name", "learning_rate", "train_batch_size", "max_seq_length"}


def test_a_name_keeps_its_own_meaning():
    """--output_dir is the cache of the classifiers, but pretraining has none."""
    assert torch("--output_dir=a", "--model_dir=b").data.cache_dir == "a"
    assert torch("--output_dir=a", program=PretrainSettings).run.model_dir == "a"
    assert tensorflow("--output_dir=a").records.output_dir == "a"
    assert tensorflow("--output_dir=a", program="pretrain").run.model_dir == "a"


def test_dashes_and_booleans():
    assert torch("--data-dir=a", "--test-only").data.data_dir == "a"
    assert torch("--no-truncate-seq").init.truncate_seq is False
    assert torch("--notruncate_seq").init.truncate_seq is False
    assert torch("--truncate_seq=False").init.truncate_seq is False
    assert torch("--bf16=True", "--fp16=false").device.bf16
    assert not torch("--test_only=False").task.test_only
    with pytest.raises(ConfigError, match="--bf16=perhaps: is either given or not"):
        torch("--bf16=perhaps")
    assert tensorflow("--data-dir=a", "--no-do-train").run.do_train is False


@pytest.mark.parametrize("parse", [torch, tensorflow])
def test_numbers_of_a_settings_file(parse, tmp_path):
    """JSON has one type of number: 1e3 and 1000.0 are 1000."""
    path = tmp_path / "s.json"
    path.write_text('{"max_length": 2e1, "train_bsz": 16.0, "lr": 1e-4}')
    settings = parse(f"--settings_file={path}")
    if parse is torch:
        assert (settings.data.max_length, settings.training.batches.batch_size) == (20, 16)
    else:
        assert settings.classification.max_seq_length == 20
        assert settings.training.train_batch_size == 16
    path.write_text('{"max_length": 20.5}')
    with pytest.raises(ConfigError, match=r"max_(seq_)?length.*20\.5"):
        parse(f"--settings_file={path}")


@pytest.mark.parametrize("parse", [torch, tensorflow])
def test_slips(parse):
    with pytest.raises(ConfigError, match=r"--data_dri: unknown flag; did you mean --data_dir\?"):
        parse("--data_dri=a")
    with pytest.raises(
        ConfigError, match=r"--learning_rat: unknown flag; did you mean --(lr|lear)"
    ):
        parse("--learning_rat=1")
    with pytest.raises(ConfigError, match=r"--qqqq: unknown flag \(--help lists all flags\)"):
        parse("--qqqq")


def test_the_model_is_suggested_for_an_initial_checkpoint():
    found = r"--init_(ckpt|checkpoint): unknown flag; did you mean --model\?"
    for name in ("init_ckpt", "init_checkpoint"):
        with pytest.raises(ConfigError, match=found):
            torch(f"--{name}=a", program=TorchExtractionSettings)
    with pytest.raises(ConfigError, match=r"--model: unknown flag; did you mean --init_ckpt\?"):
        torch("--model=a")


@pytest.mark.parametrize("parse", [torch, tensorflow])
def test_settings_from_files(tmp_path, parse):
    lines, more, settings = (tmp_path / name for name in ("lines.txt", "more.txt", "s.json"))
    more.write_text("--seed 3\n")
    lines.write_text(f"# of the group\n\n--lr=1e-3\n--data-dir=a\n--flagfile={more}\n")
    settings.write_text(json.dumps({"max_length": 77, "labels": ["x", "y"], "overwrite": True}))
    found = parse("--data_dir=b", f"--flagfile={lines}", "--settings_file", str(settings))
    ours = found.data if parse is torch else found.task
    assert ours.data_dir == "b" and found.run.seed == 3
    length, columns = ("max_length", "custom") if parse is torch else ("max_seq_length", "columns")
    assert length in found.given and getattr(found, columns).labels == "x,y"
    assert "data_dir" in found.given


def test_unset_values_of_json(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"seed": None, "bf16": False, "truncate_seq": False, "lr": 0.5}))
    found = torch(f"--settings_file={path}")
    assert found.given == {"truncate_seq", "lr"} and found.init.truncate_seq is False


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.txt", "--lr=1\n--leraning_rate=2\n", r"f\.txt:2: --leraning_rate: unknown flag; did"),
        ("f.txt", "lr = 1\n", r"f\.txt:1: 'lr = 1' should be a flag"),
        ("f.txt", "--flagfile={path}\n", "includes itself"),
        (
            "s.json",
            '{"max_lenght": 1}',
            r"s\.json: --max_lenght: unknown flag; did you mean --max_l",
        ),
        ("s.json", '{"lr": {"a": 1}}', r"s\.json: key 'lr': should be a text"),
        ("s.json", "[1]", r"s\.json: should hold a JSON object"),
        ("s.json", '{"lr": "fast"}', "lr.*fast"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text.replace("{path}", str(path)))
    kind = "flagfile" if name == "f.txt" else "settings_file"
    with pytest.raises(ConfigError, match=message):
        torch(f"--{kind}={path}")


@pytest.mark.parametrize("kind", ["flagfile", "settings_file"])
def test_missing_files(tmp_path, kind):
    with pytest.raises(ConfigError, match="nowhere"):
        torch(f"--{kind}={tmp_path / 'nowhere'}")
    with pytest.raises(ConfigError, match=f"--{kind}: should name a file"):
        torch(f"--{kind}")


def test_arguments_after_two_dashes_stay():
    known = KnownFlags(frozenset({"data_dir"}))
    assert prepare(["--data-dir", "a", "--", "--any-thing"], known) == [
        *("--data_dir", "a", "--", "--any-thing")
    ]


def test_help_names_the_files(capsys):
    for parse in (torch, tensorflow):
        with pytest.raises(SystemExit):
            parse("--help")
        text = capsys.readouterr().out
        assert "--flagfile=FILE" in text and "--settings_file=FILE" in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model_dir=runs/a  # mine", ":1: --model_dir: a comment needs a line of its own"),
        ("--lr 1e-3 # peak", ":1: --lr: a comment needs a line of its own"),
        ('--data_dir="my data"', ':1: --data_dir="my data": values have no quotes'),
    ],
)
def test_comments_and_quotes_are_no_part_of_values(tmp_path, line, message):
    file = tmp_path / "a.flags"
    file.write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        torch(f"--flagfile={file}")
    file.write_text('--labels="yes, sir","no"\n--data_dir=my#data\n')
    settings = torch(f"--flagfile={file}")
    assert settings.data.data_dir == "my#data" and '"yes, sir"' in str(settings)
