"""docs/extending.md: its example, as it stands there, is a task in both backends."""

import json

import pytest

pytest.importorskip("torch")

import funnel.tasks
import funnel.tasks.metrics
import readme_commands
import repo_layout
from classifier_runs import arguments, invoke, load_program, refuse, write_files
from funnel.cli.task_module import load_task_module
from funnel.tasks import get_task, register_task
from funnel.tasks.metrics import register_metric
from funnel.utils.errors import ConfigError, DataError
from task_files import write

PAGE = repo_layout.ROOT / "docs/extending.md"


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Let no task and no metric outlive its test: others in the same process list all of them."""
    for module, names in {
        funnel.tasks: ("_TASKS", "_REGISTERED"),
        funnel.tasks.metrics: ("_METRICS", "_REGISTERED"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name).copy())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a directory with the files of the page, and a tiny vocabulary and model."""
    write_files(tmp_path)
    (code,) = readme_commands.blocks(PAGE, "python")
    (data,) = readme_commands.blocks(PAGE, "xml")
    assert len(code.splitlines()) < 40
    write(tmp_path / "my_task.py", code)
    for split in ("train", "dev"):
        write(tmp_path / f"headlines/{split}.xml", data)
    unknown = data.replace(' ironic="no"', "").replace(' ironic="yes"', "")
    write(tmp_path / "headlines/test.xml", unknown)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _documented(program):
    """Return the flags of the page's command for a program, without those of the checkpoint."""
    (line,) = [line for line in readme_commands.shell_lines(PAGE) if program in line]
    flags = dict(w.removeprefix("--").split("=", 1) for w in line.split() if "=" in w)
    return {k: v for k, v in flags.items() if k not in ("init_ckpt", "init_checkpoint")}


def test_the_example_trains_with_pytorch(folder, capsys):
    program = load_program("classifier")
    flags = arguments(folder, epochs=1, **_documented("pytorch/"), write_prediction=True)
    assert invoke(program, flags) == 0
    scores = json.loads((folder / "runs/irony/final_scores.json").read_text())
    assert list(scores["dev"]) == ["rare_f1", "accuracy", "loss"] and list(scores) == ["dev"]
    lines = (folder / "runs/irony/test_results.txt").read_text().splitlines()
    assert len(lines) == 2 and set(lines) <= {"yes", "no"}
    module = folder / "my_task.py"
    module.write_text(module.read_text().replace("zero_division=0", "zero_division=1"))
    refuse(program, capsys, [*flags, "--resume"], "another run", "task_module_sha256")


def test_the_example_is_read_by_tensorflow(folder):
    pytest.importorskip("absl")
    from support_tf import import_tensorflow

    import_tensorflow()
    from funnel_tf.cli import classifier
    from tf_program_runs import classifier_flags, parse_settings

    flags = classifier_flags(folder, **_documented("tensorflow/") | {"model_config": None})
    sizes = ("--block_size=1_1", "--decoder_size=0", "--d_model=16", "--d_embed=16", "--n_head=2")
    inputs = classifier.prepare(parse_settings("classifier", *flags, *sizes))
    assert inputs.task.metrics == ("rare_f1", "accuracy") and inputs.scope == "irony"
    assert inputs.files["train"].report.labels == {"no": 1, "yes": 1}


def test_cached_texts_depend_on_the_reader(folder):
    load_task_module("my_task.py")
    before = get_task("irony").sources["train"]
    load_task_module("my_task.py")
    assert get_task("irony").sources["train"] == before
    module = folder / "my_task.py"
    module.write_text(module.read_text().replace("headline.text,", "headline.text.upper(),"))
    load_task_module("my_task.py")
    assert get_task("irony").sources["train"] != before
    assert get_task("irony").load("headlines", "train")[0].text_a == "THE FILM IS GOOD"


def test_faults_of_a_module_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--task_module=nosuch.py: no such file"):
        load_task_module("nosuch.py")
    for code, message in (
        ("x = 1\nraise KeyError('a')\n", r"bad.py:2: KeyError: 'a'"),
        ("x = 1\n\nif:\n", r"bad.py:3: SyntaxError"),
        ("from funnel.tasks import register_task as r\nr('RTE', None, {})", "'RTE' exists"),
    ):
        path = write(tmp_path / "bad.py", code)
        with pytest.raises(ConfigError, match=message):
            load_task_module(str(path))
    assert load_task_module(None) == {}
    text = write(tmp_path / "task.txt", "")
    with pytest.raises(ConfigError, match=r"should be a Python file"):
        load_task_module(str(text))


def test_registered_names_and_rows(tmp_path):
    with pytest.raises(ConfigError, match="metric 'accuracy' exists"):
        register_metric("accuracy", max)
    for name, message in (("SST-2", "exists"), ("csv", "exists"), ("a b", "letters, digits")):
        with pytest.raises(ConfigError, match=message):
            register_task(name, list, {})
    with pytest.raises(ConfigError, match="split 'valid' is none of"):
        register_task("mine", list, {"valid": "a"})
    rows = [("a", "b", "x"), ("c", "d", "y")]
    register_task("mine", lambda path: rows, {"train": "t"}, pairs=True)
    write(tmp_path / "t", "")
    task = get_task("mine").resolve_labels(tmp_path)
    assert task.labels == ("x", "y")
    assert [e.text_b for e in task.load(tmp_path, "train")] == ["b", "d"]
    rows[1] = ("c", 3, "y")
    with pytest.raises(DataError, match=r"t:2: not all strings"):
        task.load(tmp_path, "train")
