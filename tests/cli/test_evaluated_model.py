"""Which model the PyTorch programs evaluate without training, and whose results they replace."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")

import pretrain_runs
from answering_runs import RACE, SQUAD
from classifier_runs import arguments, invoke, load_program, refuse, write_files
from funnel.checkpoints import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


def _save_core(source, folder):
    """Save the model in ``source`` without its head, as a pretrained checkpoint."""
    core = load_checkpoint(source)
    core.tensors = {
        name: values
        for name, values in core.tensors.items()
        if name.startswith(("model/input", "model/encoder"))
    }
    core.metadata = {"vocab_path": core.metadata["vocab_path"]}
    save_checkpoint(core, folder, "hf")
    return folder


@pytest.fixture(scope="module")
def classifier():
    return load_program("classifier")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, classifier):
    """A finished run that others only read, its files, and ``core``, a pretrained checkpoint."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_files(folder)
    assert invoke(classifier, arguments(folder, lr=5e-3, write_prediction=True)) == 0
    _save_core(folder / "run" / "best", folder / "core")
    return folder


def _contents(run):
    names = ("final_scores.json", "test_results.txt", "valid_results.txt")
    return {name: (run / name).read_bytes() for name in names}


def test_a_finished_run_wins_over_the_initial_checkpoint(finished, classifier, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    # The original's script keeps --init_ckpt when --test_only is added to it.
    changes = {"init_ckpt": finished / "core", "model_dir": tmp_path / "run"}
    argv = arguments(finished, test_only=True, write_prediction=True, **changes)
    assert invoke(classifier, argv) == 0
    assert _contents(tmp_path / "run") == _contents(finished / "run")


@pytest.mark.parametrize("flag", ["test_only", "do_train"])
def test_without_training_the_head_must_be_in_the_checkpoint(
    finished, classifier, tmp_path, capsys, flag
):
    changes = {"init_ckpt": finished / "core", "model_dir": tmp_path / "run"}
    changes |= {"init_ckpt_config": None}
    if flag == "test_only":
        argv = arguments(finished, test_only=True, **changes)
        refuse(classifier, capsys, argv, str(finished / "core"), "no classification head")
        fresh = {"init_ckpt": finished / "run" / "best", "new_head": True}
        argv = arguments(finished, test_only=True, **(changes | fresh))
        refuse(classifier, capsys, argv, "--new_head")
        assert not (tmp_path / "run").exists()
    else:
        assert invoke(classifier, arguments(finished, epochs=1, **changes)) == 0


def test_results_of_a_run_are_not_replaced_by_another_model(finished, classifier, tmp_path, capsys):
    """The run in model_dir has no model yet, so --init_ckpt would be evaluated there."""
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run" / "run_config.json", tmp_path / "run")
    changes = {"init_ckpt": finished / "run" / "best", "model_dir": tmp_path / "run"}
    argv = arguments(finished, test_only=True, init_ckpt_config=None, **changes)
    refuse(classifier, capsys, argv, str(tmp_path / "run"), "another run", "--model_dir")
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_a_run_of_the_original_is_evaluated(finished, classifier, tmp_path, capsys):
    """``model.pt``, a pickled list of weights and optimizer, with ``var.pt`` next to it."""
    run, released = tmp_path / "run", tmp_path / "released"
    save_checkpoint(load_checkpoint(finished / "run" / "best"), released, "pt")
    run.mkdir()
    weights = torch.load(released / "model.pt", weights_only=True)
    torch.save([weights, {"state": {}, "param_groups": []}], run / "model.pt")
    torch.save([0.5, 3], run / "var.pt")
    changes = {"init_ckpt": finished / "core", "model_dir": run}
    argv = arguments(finished, test_only=True, write_prediction=True, **changes)
    assert invoke(classifier, argv) == 0
    assert _contents(run)["test_results.txt"] == _contents(finished / "run")["test_results.txt"]


@pytest.mark.parametrize("task", [SQUAD, RACE], ids=lambda task: task.name)
def test_squad_and_race(task, tmp_path, capsys):
    program = load_program(task.name)
    folder = task.finished(tmp_path / "task", program)
    core = _save_core(folder / "run" / "best", tmp_path / "core")
    scores = json.loads((folder / "run" / "final_scores.json").read_text())

    alone = {"do_train": None, "init_ckpt": core}
    assert invoke(program, task.arguments(folder, **alone)) == 0
    again = json.loads((folder / "run" / "final_scores.json").read_text())
    assert again["dev"] == pytest.approx(scores["dev"])
    elsewhere = task.arguments(folder, **alone, model_dir=tmp_path / "new")
    refuse(program, capsys, elsewhere, str(core), "lacks", "kernel")

    other = tmp_path / "other"
    shutil.copytree(folder / "run", other)
    name = "predict_dir" if task is SQUAD else "model_dir"
    where = {"eval_model_dir": folder / "run"} if task is RACE else {}
    argv = task.arguments(folder, do_train=None, **where, **{name: other})
    refuse(program, capsys, argv, str(other), "another run", f"--{name}")
    if task is SQUAD:
        joint = {"do_predict": None, "do_ensemble": True, "ensemble_ckpts": core}
        joint |= {"ensemble_output_file": tmp_path / "joint.json"}
        refuse(program, capsys, task.arguments(folder, do_train=None, **joint), "lacks")


def test_a_run_without_evaluation_is_answered_by_its_last_model(tmp_path):
    program = load_program("squad")
    SQUAD.write(tmp_path)
    wanted = {"predict_file": None, "do_predict": None, "epochs": 1}
    assert invoke(program, SQUAD.arguments(tmp_path, **wanted)) == 0
    assert not (tmp_path / "run" / "best").exists()
    assert invoke(program, SQUAD.arguments(tmp_path, do_train=None)) == 0
    assert len(json.loads((tmp_path / "run" / "predictions.json").read_text())) == 12


def test_pretraining_without_the_objective_head(finished, tmp_path, capsys):
    pretrain_runs.write_files(tmp_path)
    program, folder = load_program("pretrain"), tmp_path
    assert invoke(program, pretrain_runs.arguments(folder, train_steps=2, eval_steps=2)) == 0
    core = _save_core(folder / "run" / "best", tmp_path / "core")
    alone = {"eval_only": True, "config": None}
    argv = pretrain_runs.arguments(folder, None, init_ckpt=core, **alone)
    refuse(program, capsys, argv, str(core), "lacks", "without training")
    capsys.readouterr()
    assert invoke(program, pretrain_runs.arguments(folder, init_ckpt=core, **alone)) == 0
    best = json.loads((folder / "run" / "best_result.json").read_text())["scores"]["dev"]
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["dev"]
    assert scores == pytest.approx(best, rel=1e-4)
