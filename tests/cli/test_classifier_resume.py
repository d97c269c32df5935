"""A run killed at any moment and started again is the run that was never killed, bit for bit."""

import random
import signal

import pytest

pytest.importorskip("torch")

from classifier_runs import Zygote, arguments, curve, kill_after, write_files
from thoroughness import usual_or_thorough

pytestmark = pytest.mark.slow

KILLS = usual_or_thorough(2, 5)
STEPS = 60


@pytest.fixture(scope="module")
def zygote():
    zygote = Zygote("classifier")
    yield zygote
    zygote.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_runs_repeat_the_uninterrupted_one(tmp_path, zygote, seed):
    write_files(tmp_path)
    settings = {"epochs": 10, "save_steps": 4, "n_log_epoch": 6, "grad_accum": 1}
    complete = arguments(tmp_path, "complete", **settings)
    assert zygote.run(complete, tmp_path / "complete.log") == 0, (
        tmp_path / "complete.log"
    ).read_text()
    assert max(row["step"] for row in curve(tmp_path / "complete")) == STEPS

    killed = arguments(tmp_path, "killed", **settings)
    # The last evaluations and saves included; the second seed resumes without the flag.
    moments = sorted(random.Random(seed).sample(range(1, STEPS + 8), KILLS))
    for lines in moments:
        flag = ["--resume"] if seed == 0 else []
        log = tmp_path / f"{lines}.log"
        status = kill_after(zygote, killed + flag, tmp_path / "killed", lines, log)
        assert status == -signal.SIGKILL, log.read_text()
    log = tmp_path / "last.log"
    assert zygote.run([*killed, "--resume"], log) == 0, log.read_text()

    assert curve(tmp_path / "killed") == curve(tmp_path / "complete")
    for name in ("best/model.safetensors", "last/model.safetensors", "best_result.json"):
        ours, theirs = tmp_path / "killed" / name, tmp_path / "complete" / name
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_unseeded_run_keeps_the_seed_it_drew(tmp_path, zygote):
    write_files(tmp_path)
    settings = {"seed": None, "epochs": 2, "save_steps": 2}
    argv, log = arguments(tmp_path, **settings), tmp_path / "log"
    # Killed before its first checkpoint: all that is left is the record of its settings.
    kill_after(zygote, argv, tmp_path / "run", 1, log)
    if (tmp_path / "run" / "last").exists():
        pytest.skip("the machine stalled: the run had saved before it could be killed")
    first = curve(tmp_path / "run")[0]
    assert zygote.run(argv, log) == 0, log.read_text()
    assert curve(tmp_path / "run")[0] == first


def test_full_disk_leaves_the_checkpoint_before(tmp_path, zygote):
    write_files(tmp_path)
    settings = {"epochs": 3, "save_steps": 4, "n_log_epoch": 6}
    assert zygote.run(arguments(tmp_path, "complete", **settings), tmp_path / "log") == 0
    argv, log = arguments(tmp_path, "run", **settings), tmp_path / "run.log"
    kill_after(zygote, argv, tmp_path / "run", 7, log)
    before = {f.name: f.read_bytes() for f in (tmp_path / "run" / "last").iterdir()}
    limit = (len(before["model.safetensors"]) + len(before["training_state.pt"])) // 2
    assert zygote.run(argv, log, file_limit=limit) == 2
    errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(tmp_path / "run" / "last") in errors[0]
    assert {f.name: f.read_bytes() for f in (tmp_path / "run" / "last").iterdir()} == before
    assert zygote.run(argv, log) == 0, log.read_text()
    assert curve(tmp_path / "run") == curve(tmp_path / "complete")
