"""The demo's comparison, its shipped weights and the commands it proposes; `make demo` runs all."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import pytest

import repo_layout
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import FunnelError

pytestmark = pytest.mark.slow

ROWS = {
    "train": [("files", "open the file and read it")] * 6 + [("network", "send to the host")] * 4,
    "dev": [("files", "read a file")],
    "test": [("network", "the host to send to"), ("files", "a file to open"), ("network", "hosts")],
}
PRETRAINED = repo_layout.ROOT / "demo" / "pretrained"
MODULES = ("_baselines", "_programs", "_report", "shrink", "_paths")


@pytest.fixture(scope="module")
def demo():
    pytest.importorskip("sklearn")
    folder = repo_layout.ROOT / "demo"
    spec = importlib.util.spec_from_file_location("funnel_demo", folder / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["funnel_demo"] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        spec.loader.exec_module(module)
        yield module
    for name in ("funnel_demo", *MODULES):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path):
    """Return a folder with a task of ten training and three test texts."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in ROWS.items():
        lines = "".join(f"{label}\t{text}\n" for label, text in rows)
        (folder / f"{split}.tsv").write_text(f"label\ttext\n{lines}")
    return folder


def test_baselines(demo, data):
    assert demo.majority(data).accuracy == pytest.approx(1 / 3)
    score = demo.bag_of_words(data)
    assert score.accuracy >= 2 / 3
    assert score.train_seconds > 0 and score.predict_seconds > 0
    assert demo.bag_of_words(data, longest=2).accuracy >= 2 / 3


def test_predictions_of_another_test_set_are_refused(demo):
    with pytest.raises(FunnelError, match="1 predictions for 3 test examples"):
        demo.compute_accuracy(["network"], ["network", "files", "files"])


def test_a_failing_step_ends_the_demo(demo, capfd):
    with pytest.raises(FunnelError, match="make_demo_data.py ended with exit code 2"):
        demo.run_program("data-scripts/make_demo_data.py", "--library=/nowhere", "--output_dir=/x")
    assert "no docstrings" in capfd.readouterr().err


def test_programs_run_together(demo, tmp_path, monkeypatch, capfd):
    programs = sys.modules["_programs"]
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    (tmp_path / "say.py").write_text(
        "import os, sys; print(sys.argv[1], os.environ['OMP_NUM_THREADS'])"
    )
    programs.run_together({"a": ("say.py", "one"), "b": ("say.py", "two")}, threads=3)
    lines = capfd.readouterr().out.splitlines()
    assert {"$ python say.py one", "$ python say.py two", "[a] one 3", "[b] two 3"} <= set(lines)


def test_a_failure_stops_the_other_program(demo, tmp_path, monkeypatch, capfd):
    programs = sys.modules["_programs"]
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    (tmp_path / "wait.py").write_text("import time\ntime.sleep(600)")
    (tmp_path / "fail.py").write_text("import sys\nsys.exit('error: no such thing')")
    with pytest.raises(FunnelError, match=r"fail.py ended with exit code 1"):
        programs.run_together({"a": ("wait.py",), "b": ("fail.py",)}, threads=1)
    assert "[b] error: no such thing" in capfd.readouterr().out
    (tmp_path / "interrupted.py").write_text("import sys\nsys.exit(130)")
    with pytest.raises(KeyboardInterrupt):
        programs.run_together({"a": ("wait.py",), "b": ("interrupted.py",)}, threads=1)


def test_no_program_outlives_the_demo(demo, tmp_path):
    (tmp_path / "wait.py").write_text(
        "import os, time\nopen('pid.new', 'w').write(str(os.getpid()))\n"
        "os.rename('pid.new', 'pid')\ntime.sleep(600)"
    )
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import _programs\n"
        "_programs.ROOT = pathlib.Path.cwd(); _programs.end_programs_on_sigterm()\n"
        "_programs.run_together({'a': ('wait.py',)}, 1)"
    )
    command = [sys.executable, "-c", code, str(repo_layout.ROOT / "demo")]
    process = subprocess.Popen(command, cwd=tmp_path)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(("cores", "groups", "threads"), [(1, 4, 1), (2, 2, 1), (9, 2, 4)])
def test_as_many_at_once_as_there_are_cores_for(demo, monkeypatch, cores, groups, threads):
    calls = []
    monkeypatch.setattr(demo, "run_together", lambda *call: calls.append(call))
    monkeypatch.setattr(demo, "count_cores", lambda: cores)
    demo.train_all("topic", repo_layout.ROOT / "demo_output", 1)
    assert len(calls) == groups and {found for _, found in calls} == {threads}
    assert [name for commands, _ in calls for name in commands] == [run.name for run in demo.RUNS]


def read_flags(program):
    pytest.importorskip("torch")
    command = [sys.executable, str(repo_layout.ROOT / "pytorch" / program), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(re.findall(r"--\w+", done.stdout))


def test_commands_have_the_flags(demo, tmp_path):
    commands = [
        demo.training_command(run, demo.TASKS["order"], tmp_path, tmp_path / run.folder, 1)
        for run in demo.RUNS
    ]
    used = {flag.partition("=")[0] for _, *flags in commands for flag in flags}
    of_next = {line.split(" --", 1)[0].split()[-1]: line for line in demo.report.NEXT.split("\n")}
    proposed = set(re.findall(r"--\w+", of_next["pytorch/classifier.py"]))
    assert used | proposed <= read_flags("classifier.py")
    script = (repo_layout.ROOT / "demo" / "pretrain.sh").read_text().partition("pretrain.py")[2]
    assert set(re.findall(r"--\w+", script.partition('"$PYTHON"')[0])) <= read_flags("pretrain.py")


def test_runs_differ_in_pooling_and_initial_weights_alone(demo, tmp_path):
    task = demo.TASKS["topic"]
    calls = [
        set(demo.training_command(run, task, tmp_path, tmp_path / "model", 1)) for run in demo.RUNS
    ]
    assert len(calls) == 4
    common = set.intersection(*calls)
    starts = {f"--init_ckpt={PRETRAINED}", f"--init_ckpt_config={PRETRAINED / 'config.json'}"}
    layouts = {"--block_size=6", "--block_size=2_2_2"}
    assert all(len(call & starts) == len(call & layouts) == 1 for call in calls)
    assert set.union(*calls) - common == starts | layouts


def test_training_seconds_leave_evaluation_out(demo, tmp_path):
    rows = [
        {"step": 5, "split": "train", "time": 10.0, "loss": 1.0, "examples_per_second": 50.0},
        {"step": 5, "split": "dev", "time": 99.0, "accuracy": 0.5},
        {"step": 10, "split": "train", "time": 110.0, "loss": 1.0, "examples_per_second": 25.0},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / demo.METRICS_FILE).write_text(lines)
    assert demo.training_seconds(tmp_path, 100) == pytest.approx(2 + 4)


def test_other_versions_are_said(demo, tmp_path):
    for name, packages in (
        ("a", {"torch": "1", "numpy": "2"}),
        ("b", {"torch": "3", "scipy": "4"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"packages": packages}))
    torch, scipy = demo.check_packages(tmp_path / "a", tmp_path / "b")
    assert torch.startswith("torch: 1 here, 3 in") and scipy.startswith("scipy: not installed here")


def test_table_picture_and_conclusion(demo, tmp_path):
    scores = {
        "majority class": demo.Score(0.1),
        "bag of words": demo.Score(0.5, 0.2, 0.1),
        "Transformer, random": demo.Score(0.3, 50.0, 2.0),
        "Transformer, pretrained": demo.Score(0.6, 52.0, 2.0),
        "Funnel, random": demo.Score(0.31, 30.0, 1.0),
        "Funnel, pretrained": demo.Score(0.61, 26.0, 1.0),
    }
    results = {"topic": scores, "order": scores}
    titles = {task: facts.title for task, facts in demo.TASKS.items()}
    lines = demo.report.format_table(results, titles, 400).splitlines()
    assert re.sub(" +", " ", lines[-1]) == "Funnel, pretrained" + 2 * " 61.0 % +- 2.4 26.0 s 1.00 s"
    assert len(lines) == 3 + len(scores)
    conclusion = demo.report.summarize(results, 400).splitlines()
    assert conclusion[0] == "topic: Transformer, pretrained against random: +30.0 points (+- 3.4)"
    assert "+1.0 points (+- 3.5), 50 % of the training time, 50 % of" in conclusion[-1]
    demo.report.draw(results, titles, 400, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_shipped_weights(demo):
    torch = pytest.importorskip("torch")
    from funnel_torch import FunnelEncoder

    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) < 6e6
    model = FunnelEncoder.from_pretrained(PRETRAINED)
    parameters = list(model.parameters())
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in parameters)
    tokenizer = get_tokenizer("word_piece", PRETRAINED / "vocab.txt")
    assert len(tokenizer.encode("eigenvalues of a sparse matrix")) <= 8
    manifest = json.loads((PRETRAINED / "manifest.json").read_text())
    assert set(manifest["packages"]) >= {"torch", "scipy"} and manifest["steps"] > 0


def test_shrunk_weights_are_those_of_the_checkpoint(demo, tmp_path):
    torch = pytest.importorskip("torch")
    from funnel.config.model import ModelConfig
    from funnel_torch import FunnelEncoder
    from shrink import shrink

    config = ModelConfig(
        block_size="1", d_model=8, d_embed=8, n_head=1, d_head=8, d_inner=8, vocab_size=20
    )
    model = FunnelEncoder(config)
    model.save_pretrained(tmp_path / "from")
    (tmp_path / "from" / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    (tmp_path / "from" / "progress.json").write_text('{"step": 7}')
    (tmp_path / "manifest.json").write_text('{"packages": {"torch": "1"}}')
    shrink(tmp_path / "from", tmp_path / "manifest.json", tmp_path / "to")
    restored = FunnelEncoder.from_pretrained(tmp_path / "to")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(restored.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    written = json.loads((tmp_path / "to" / "manifest.json").read_text())
    assert written == {"packages": {"torch": "1"}, "steps": 7}
