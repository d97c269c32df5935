"""The last lines of PyTorch runs: best model, files, next command, and Ctrl-C."""

import json
import logging
import shlex

import pytest

torch = pytest.importorskip("torch")

from classifier_runs import arguments, invoke, load_program, write_files
from funnel_torch.training import trainer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def program():
    return load_program("classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endings")
    write_files(folder)
    return folder


def messages(caplog, program, argv):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert invoke(program, argv) == 0
    return caplog.messages


def test_the_end_of_a_run_and_the_command_it_names(folder, program, caplog, monkeypatch):
    # Logging is set up by the program, which would take caplog's handler away.
    monkeypatch.setattr("funnel_torch.cli.processes.configure_logging", lambda *_: None)
    argv = arguments(folder, init_ckpt=None, overwrite=True)
    *_, model, files, command = messages(caplog, program, argv)
    assert model.startswith("final model = best model, step ") and "of 12; dev matthews" in model
    assert "best/, last/, best_result.json, final_scores.json, metrics.jsonl" in files
    assert files.endswith(f"the final model is {folder / 'run' / 'best'}")
    purpose, line = command.split("\n")
    assert purpose == "to predict the test data with this model:"
    words = shlex.split(line)
    assert "--overwrite" not in words
    assert invoke(program, words[1:]) == 0
    assert (folder / "run" / "test_results.txt").is_file()
    record = json.loads((folder / "run" / "run_config.json").read_text())
    resolved = record["resolved"]
    assert resolved["block_size"] == "1_1" and resolved["parameters"]["total"] > 1000
    assert resolved["tokenizer"]["vocab_size"] == 21 and resolved["max_length"] == 16
    assert record["git_commit"]


def test_no_test_data_no_command(program, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr("funnel_torch.cli.processes.configure_logging", lambda *_: None)
    write_files(tmp_path)
    (tmp_path / "CoLA" / "test.tsv").unlink()
    *_, last = messages(caplog, program, arguments(tmp_path, epochs=1))
    assert last.endswith(f"the final model is {tmp_path / 'run' / 'best'}")


def test_ctrl_c_names_the_step_and_the_command(folder, program, capsys, monkeypatch):
    def evaluate(self, scores):
        raise KeyboardInterrupt

    argv = arguments(folder, "stopped", save_steps=4, overwrite=True)
    monkeypatch.setattr(trainer.Trainer, "_update_best", evaluate)
    assert invoke(program, argv) == 130
    *_, text, command = capsys.readouterr().err.strip().splitlines()
    run = folder / "stopped"
    assert text == f"interrupted; {run} holds step 4 of 12; to resume there:"
    monkeypatch.undo()
    assert invoke(program, shlex.split(command)[1:]) == 0
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert len([row for row in rows if '"train"' in row]) == 12
