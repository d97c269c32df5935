"""classifier.py with held-out dev data, without dev data, with frozen parts, and extended."""

import json

import pytest

torch = pytest.importorskip("torch")

from classifier_runs import arguments, curve, invoke, load_program, refuse, write_files

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def program():
    return load_program("classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("economy")
    write_files(folder)
    (folder / "CoLA" / "dev.tsv").unlink()
    return folder


def progress(run):
    return json.loads((run / "last" / "progress.json").read_text())


def test_a_held_out_run_with_frozen_parts_is_extended(folder, program, capsys):
    flags = {"dev_fraction": 0.25, "freeze": "embeddings,encoder.0", "epochs": 2}
    run, argv = folder / "run", arguments(folder, **flags, output_dir=folder / "cache")
    refuse(program, capsys, [*argv, "--extend_to=4"], "--extend_to", "no run to train further")
    assert invoke(program, argv) == 0
    assert progress(run)["total_steps"] == 10  # 36 examples in batches of 8
    record = json.loads((run / "run_config.json").read_text())
    parameters = record["resolved"]["parameters"]
    assert 0 < parameters["trained"] < parameters["total"]
    first = curve(run)
    state = torch.load(run / "last" / "training_state.pt", weights_only=True)
    moments = sum(s["exp_avg"].numel() for s in state["optimizer"]["state"].values())
    assert moments == parameters["trained"]

    assert invoke(program, [*argv, "--extend_to=4"]) == 0
    assert progress(run) == {"step": 20, "total_steps": 20, "finished": True}
    assert curve(run)[: len(first)] == first
    steps = [row["step"] for row in curve(run) if row["split"] == "train"]
    assert steps == list(range(1, 21))
    lr = {row["step"]: row["lr"] for row in curve(run) if row["split"] == "train"}
    assert lr[10] < lr[11] and lr[20] < lr[11]  # the decay begins again, with the longer schedule
    refuse(program, capsys, [*argv, "--resume"], "the run has 20 steps", "--extend_to")
    capsys.readouterr()
    assert invoke(program, [*argv, "--extend_to=4"]) == 0  # finished: evaluated again
    assert progress(run)["step"] == 20


def test_other_training_data_do_not_continue_a_run(tmp_path, program, capsys):
    write_files(tmp_path)
    argv, path = arguments(tmp_path, epochs=1, no_dev=True), tmp_path / "CoLA" / "train.tsv"
    assert invoke(program, argv) == 0  # 48 examples in batches of 8
    lines = path.read_text().splitlines(keepends=True)
    told = ("the training data has changed", "another --model_dir")
    for changed, count in ((lines[:24], 24), (lines + lines, 96)):
        path.write_text("".join(changed))
        refuse(program, capsys, [*argv, "--resume"], *told, f"({count} examples, not 48)")
    path.write_text("".join(lines))
    assert invoke(program, [*argv, "--resume"]) == 0


def test_without_dev_data_the_last_model_is_the_final_one(folder, program, capsys):
    argv = arguments(folder, "last", epochs=1)
    refuse(program, capsys, argv, "dev.tsv")
    capsys.readouterr()
    assert invoke(program, [*argv, "--no_dev", "--write_prediction", "--recompute_layers"]) == 0
    assert "final model = last model (no evaluation has chosen one)" in capsys.readouterr().err
    assert not (folder / "last" / "best").exists()
    assert len((folder / "last" / "test_results.txt").read_text().splitlines()) == 9
    argv = arguments(folder, "other", epochs=1, no_dev=True)
    refuse(program, capsys, [*argv, "--patience=1"], "--patience: needs dev data")
    refuse(program, capsys, [*argv, "--dev_fraction=0.1"], "contradict")
    refuse(program, capsys, [*argv, "--freeze=decoder"], "'decoder'", "embeddings, encoder")
    assert not (folder / "other" / "run_config.json").exists()
