"""The demo's comparison and the commands it proposes; `make demo` runs all of it."""

import importlib.util
import re
import subprocess
import sys

import pytest

import repo_layout
from funnel.utils.errors import FunnelError

pytestmark = pytest.mark.slow

ROWS = {
    "train": [("files", "open the file and read it")] * 6 + [("network", "send to the host")] * 4,
    "dev": [("files", "read a file")],
    "test": [("network", "the host to send to"), ("files", "a file to open"), ("network", "hosts")],
}


@pytest.fixture(scope="module")
def demo():
    pytest.importorskip("sklearn")
    folder = repo_layout.ROOT / "pytorch"
    spec = importlib.util.spec_from_file_location("funnel_demo", folder / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["funnel_demo"] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        spec.loader.exec_module(module)
    yield module
    for name in ("funnel_demo", "_paths"):
        sys.modules.pop(name, None)


@pytest.fixture
def finished(tmp_path):
    """Return the data of the demo and a finished run with two of three test texts right."""
    data, model_dir = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    model_dir.mkdir()
    for split, rows in ROWS.items():
        lines = "".join(f"{label}\t{text}\n" for label, text in rows)
        (data / f"{split}.tsv").write_text(f"label\ttext\n{lines}")
    predictions = "network\nfiles\nfiles\n"
    (model_dir / "test_results.txt").write_text(predictions)
    return data, model_dir


def test_comparison(demo, finished):
    levels = demo.score_baselines(finished[0])
    assert levels["test"]["majority class"] == pytest.approx(1 / 3)
    assert levels["dev"] == {"majority class": 1.0, "bag of words": 1.0}
    assert levels["test"]["bag of words"] >= 2 / 3
    assert demo.score_funnel(*finished) == pytest.approx(2 / 3)


def test_predictions_of_another_test_set_are_refused(demo, finished):
    data, model_dir = finished
    (model_dir / "test_results.txt").write_text("network\n")
    with pytest.raises(FunnelError, match="1 predictions for 3 test examples"):
        demo.score_funnel(data, model_dir)


def test_a_failing_step_ends_the_demo(demo, capfd):
    with pytest.raises(FunnelError, match="make_demo_data.py ended with exit code 2"):
        demo.run_program("data-scripts/make_demo_data.py", "--library=/nowhere", "--output_dir=/x")
    assert "no docstrings" in capfd.readouterr().err


def read_flags(program):
    pytest.importorskip("torch")
    command = [sys.executable, str(repo_layout.ROOT / "pytorch" / program), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(re.findall(r"--\w+", done.stdout))


def test_proposed_commands_have_the_flags(demo):
    proposed = set(re.findall(r"--\w+", demo.NEXT)) - {"--logdir"}
    assert len(proposed) >= 8
    assert proposed | {f"--{name}" for name in demo.TRAINING} <= read_flags("classifier.py")


def test_both_models_have_one_size_and_start_where_they_should(demo, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(demo, "run_program", lambda *command: calls.append(command))
    electra = demo.pretrain(tmp_path / "data", tmp_path, 9)
    demo.train_funnel(tmp_path / "data", tmp_path / "a", 2, {"init_ckpt": electra})
    (_, *records), (_, *pretraining), (_, *training) = calls
    assert f"--save_dir={tmp_path / 'records'}" in records
    assert {"--train_steps=9", f"--config={demo.CONFIG}", "--loss_type=electra"} <= {*pretraining}
    assert f"--init_ckpt={tmp_path / 'electra' / 'last'}" in training
    used = {flag.partition("=")[0] for flag in pretraining}
    assert used <= read_flags("pretrain.py")
