"""Two runs that are started together in one directory: one wins, the other says so in one line."""

import pytest

import program_server
from classifier_runs import Zygote, arguments, curve, write_files
from thoroughness import usual_or_thorough

pytestmark = pytest.mark.slow

TIMES = usual_or_thorough(3, 10)


def _check_loser(statuses, logs):
    """One run has succeeded; the other has written one line, which names the owner's process."""
    assert sorted(statuses) == [0, 2], [log.read_text() for log in logs]
    text = logs[statuses.index(2)].read_text()
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in text, text
    # The loser may have been slower than the complete run of the other.
    assert "another run is writing here: process " in text or "this run is finished" in text, text
    return "another run" in text


def test_one_of_two_pytorch_runs_wins_every_time(tmp_path):
    pytest.importorskip("torch")
    write_files(tmp_path)
    zygote = Zygote("classifier")
    try:
        complete = arguments(tmp_path, "complete", epochs=2)
        assert zygote.run(complete, tmp_path / "log") == 0
        logs, refused = [tmp_path / "log-0", tmp_path / "log-1"], 0
        for number in range(TIMES):
            argv = arguments(tmp_path, f"run-{number}", epochs=2)
            pids = [zygote.start(argv, log) for log in logs]
            refused += _check_loser([zygote.wait(pid) for pid in pids], logs)
            run = tmp_path / f"run-{number}"
            assert curve(run) == curve(tmp_path / "complete")
            assert not (run / ".run.lock").exists()
        assert refused
    finally:
        zygote.close()


def test_one_of_two_tensorflow_runs_wins(tmp_path):
    from support_tf import import_tensorflow

    import_tensorflow()
    from tf_program_runs import TENSORFLOW, classifier_flags

    check_tensorflow(
        tmp_path, TENSORFLOW / "classifier.py", classifier_flags, usual_or_thorough(1, 3)
    )


def check_tensorflow(folder, program, flags, times):
    """Start two runs of TensorFlow's classifier together, several times."""
    write_files(folder)
    logs = [folder / "log-0", folder / "log-1"]
    for number in range(times):
        command = [program, *flags(folder, f"run-{number}", do_eval=True)]
        processes = [program_server.start(command, log) for log in logs]
        statuses = [process.wait(400) for process in processes]
        _check_loser(statuses, logs)
        rows = [(row["step"], row["split"]) for row in curve(folder / f"run-{number}")]
        assert rows == [*((step, "train") for step in (1, 2, 3, 4)), (0, "dev"), (4, "dev")]
