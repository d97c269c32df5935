"""A run that ends on one step without finite gradients, and models with weights that are NaN."""

import json
import math
import shutil

import numpy as np
import pytest

from classifier_runs import arguments, curve, invoke, load_program, refuse, write_files
from funnel.checkpoints import load_checkpoint
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint

pytestmark = pytest.mark.slow


def _metrics(*rows):
    usual = {"split": "train", "loss": 0.7, "skipped": 0}
    return "".join(json.dumps(usual | row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def program():
    pytest.importorskip("torch")
    return load_program("classifier")


@pytest.mark.parametrize("where", ["last", "before"])
def test_one_step_of_pytorch(tmp_path, program, monkeypatch, capsys, where):
    """Step 12 of 12, or step 11, which the run recovers from."""
    from funnel_torch.training import trainer

    write_files(tmp_path)
    clip, calls = trainer.clip_gradients, []

    def spoil(parameters, limit):
        calls.append(norm := clip(parameters, limit))
        return norm * math.nan if len(calls) == (12 if where == "last" else 11) else norm

    monkeypatch.setattr(trainer, "clip_gradients", spoil)
    status = invoke(program, arguments(tmp_path))
    assert len(calls) == 12
    (last,) = [r for r in curve(tmp_path / "run") if r["split"] == "train" and r["step"] == 12]
    assert last["skipped"] == 1
    text = capsys.readouterr().err
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    if where == "before":
        assert status == 0 and not errors
        return
    assert status == 2 and len(errors) == 1 and text.strip().endswith(errors[0])
    assert f"{tmp_path}/run diverged: the gradients of the last step were not finite" in errors[0]


def test_loss_scaling_may_skip_the_last_step():
    pytest.importorskip("torch")
    from funnel_torch.training.trainer import Progress

    ended = Progress(step=9, skipped=1, skipped_in_a_row=1)
    assert ended.divergence("fp16") == []
    assert ended.divergence("bf16") == ["the gradients of the last step were not finite"]


@pytest.mark.parametrize(("norm", "is_refused"), [(None, True), (0.5, False)])
def test_one_step_of_tensorflow(tmp_path, norm, is_refused):
    """With --skip_nan_grad, which skips steps on the way."""
    from support_tf import import_tensorflow

    import_tensorflow()
    from funnel_tf.training.run_directory import find_divergence

    step_5 = {"step": 5, "grad_norm": None if norm else 0.5, "skipped_in_a_row": int(bool(norm))}
    step_6 = {"step": 6, "grad_norm": norm, "skipped_in_a_row": int(norm is None), "skipped": 1}
    (tmp_path / "metrics.jsonl").write_text(_metrics(step_5, step_6))
    assert bool(find_divergence(tmp_path)) == is_refused


def test_evaluation_of_nan_weights_in_pytorch(tmp_path, program, capsys):
    from safetensors.numpy import load_file, save_file

    write_files(tmp_path)
    argv = arguments(tmp_path, epochs=1)
    assert invoke(program, argv) == 0
    for name in ("best", "last"):
        path = tmp_path / "run" / name / "model.safetensors"
        tensors = load_file(path)
        next(iter(tensors.values())).flat[0] = np.nan
        save_file(tensors, path, {"format": "pt"})
    alone = arguments(tmp_path, epochs=1, test_only=True)
    refuse(program, capsys, alone, "run/best", "NaN or infinite values in")
    source = {"init_ckpt": tmp_path / "run" / "last", "model_dir": tmp_path / "other"}
    alone = arguments(tmp_path, epochs=1, test_only=True, **source)
    refuse(program, capsys, alone, "run/last", "NaN or infinite values in")


def test_evaluation_of_nan_weights_in_tensorflow(tmp_path, capsys):
    from support_tf import import_tensorflow

    import_tensorflow()
    from tf_program_runs import classifier_flags, load_tf_program

    program = load_tf_program("classifier")
    write_files(tmp_path)
    assert invoke(program, classifier_flags(tmp_path, train_steps=2)) == 0
    tensors = dict(TFCheckpoint(load_checkpoint(tmp_path / "run" / "latest").metadata["path"]))
    name = next(name for name in sorted(tensors) if name.endswith("kernel"))
    tensors[name] = np.full_like(tensors[name], np.nan)
    shutil.copytree(tmp_path / "run", tmp_path / "spoilt")
    write_tf_checkpoint(tmp_path / "spoilt" / "model.ckpt-2", tensors)
    flags = {"do_train": False, "do_eval": True, "train_steps": 2}
    argv = classifier_flags(tmp_path, tmp_path / "spoilt", **flags)
    refuse(program, capsys, argv, "model.ckpt-2", f"NaN or infinite values in {name}")
