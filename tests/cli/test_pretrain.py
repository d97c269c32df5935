"""`pytorch/pretrain.py`: runs, their files, resuming and errors."""

import json
import random
import shutil
import signal

import pytest

torch = pytest.importorskip("torch")

from checkpoint_cases import flip
from classifier_runs import Zygote, curve, invoke, kill_after, load_program, refuse
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel_torch import FunnelForMaskedLM, FunnelForPreTraining, FunnelModel
from funnel_torch.models.electra import ElectraPretraining
from pretrain_runs import arguments, assert_close, write_files
from thoroughness import usual_or_thorough

pytestmark = pytest.mark.slow

KILLS = usual_or_thorough(2, 5)


@pytest.fixture(scope="module")
def program():
    return load_program("pretrain")


@pytest.fixture(scope="module")
def zygote():
    zygote = Zygote("pretrain")
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def electra(folder, program):
    """A finished ELECTRA run."""
    assert invoke(program, arguments(folder, "electra", train_steps=60, eval_steps=30)) == 0
    return folder / "electra"


def test_electra_learns_and_logs(electra):
    rows = curve(electra)
    train = [row for row in rows if row["split"] == "train"]
    dev = [row for row in rows if row["split"] == "dev"]
    assert train[-1]["mlm_loss"] < train[0]["mlm_loss"] - 0.1
    assert {"disc_auc", "disc_precision", "disc_recall", "replaced_rate"} <= set(dev[-1])
    assert dev[-1]["loss"] == pytest.approx(dev[-1]["mlm_loss"] + 50 * dev[-1]["disc_loss"])
    line = json.loads((electra / "metrics.jsonl").read_text().splitlines()[0])
    assert line["tokens_per_second"] > 0
    assert line["tflops_per_device"] > 0
    assert line["input_wait_seconds"] >= 0
    best = json.loads((electra / "best_result.json").read_text())
    assert best["score"] == min(row["loss"] for row in dev)


def test_checkpoints_load_everywhere(electra, tmp_path):
    model = FunnelModel.from_pretrained(electra / "last")
    assert FunnelForPreTraining.from_pretrained(electra / "best").config == model.config
    complete = load_checkpoint(electra / "last")
    assert any(name.startswith("generator/") for name in complete.tensors)
    assert save_checkpoint(complete, tmp_path / "tf", "tf") == []
    again = ElectraPretraining.from_pretrained(tmp_path / "tf")
    for name, tensor in ElectraPretraining.from_pretrained(electra / "last").state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_evaluation_alone_repeats_the_last_one(electra, folder, program, capsys):
    capsys.readouterr()
    argv = arguments(folder, None, init_ckpt=electra / "last", eval_only=True, valid_bsz=3)
    assert invoke(program, argv) == 0
    scores = json.loads(capsys.readouterr().out)["dev"]
    last = [row for row in curve(electra) if row["split"] == "dev"][-1]
    for name, value in scores.items():
        assert value == pytest.approx(last[name], rel=1e-5, abs=1e-6), name


def test_mlm_from_the_electra_model(electra, folder, program):
    argv = arguments(
        folder, "mlm", loss_type="MLM", init_ckpt=electra / "last", train_steps=4,
        sample_strategy="word_span", recompute_layers=True, grad_accum=2, bf16=True,
    )  # fmt: skip
    assert invoke(program, argv) == 0
    FunnelForMaskedLM.from_pretrained(folder / "mlm" / "last")
    assert "disc_loss" not in curve(folder / "mlm")[0]


@pytest.mark.parametrize("loss_type", ["electra", "mlm"])
def test_killed_runs_repeat_the_uninterrupted_one(folder, zygote, tmp_path, loss_type):
    settings = {"loss_type": loss_type, "train_steps": 40, "skip_corrupt": None}
    complete = arguments(folder, tmp_path / "complete", **settings)
    assert zygote.run(complete, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    killed = arguments(folder, tmp_path / "killed", **settings)
    for lines in sorted(random.Random(loss_type).sample(range(1, 44), KILLS)):
        log = tmp_path / f"{lines}.log"
        assert kill_after(zygote, killed, tmp_path / "killed", lines, log) == -signal.SIGKILL
    assert zygote.run([*killed, "--resume"], tmp_path / "log") == 0
    assert curve(tmp_path / "killed") == curve(tmp_path / "complete")
    for name in ("last/model.safetensors", "best/model.safetensors", "best_result.json"):
        ours, theirs = tmp_path / "killed" / name, tmp_path / "complete" / name
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_recorded_with_old_names_resumes(electra, folder, program, tmp_path, capsys):
    shutil.copytree(electra, tmp_path / "old")
    record = json.loads((tmp_path / "old/run_config.json").read_text())
    settings = record["settings"]
    settings["shuffle_window"] = settings.pop("shuffle_buffer")
    (tmp_path / "old/run_config.json").write_text(json.dumps(record))
    steps = {"train_steps": 60, "eval_steps": 30}
    argv = arguments(folder, tmp_path / "old", **steps, resume=True)
    assert invoke(program, argv) == 0
    other = arguments(folder, tmp_path / "old", **steps, resume=True, shuffle_buffer=99)
    refuse(program, capsys, other, "shuffle_buffer was 8192, now 99")


def test_a_save_between_log_lines_loses_no_figures(folder, zygote, tmp_path):
    settings = {"train_steps": 24, "save_steps": 4, "log_steps": 6, "eval_split": None}
    complete = arguments(folder, tmp_path / "complete", **settings)
    assert zygote.run(complete, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    killed = arguments(folder, tmp_path / "killed", **settings)
    kill_after(zygote, killed, tmp_path / "killed", 2, tmp_path / "log")
    assert zygote.run(killed, tmp_path / "log") == 0
    assert curve(tmp_path / "killed") == curve(tmp_path / "complete")


def test_full_disk_leaves_the_checkpoint_before(folder, zygote, tmp_path):
    argv, log = arguments(folder, tmp_path / "run", train_steps=16), tmp_path / "log"
    kill_after(zygote, argv, tmp_path / "run", 5, log)
    before = {f.name: f.read_bytes() for f in (tmp_path / "run" / "last").iterdir()}
    limit = len(before["model.safetensors"]) // 2
    assert zygote.run(argv, log, file_limit=limit) == 2
    assert f"error: {tmp_path}/run/" in log.read_text()
    assert {f.name: f.read_bytes() for f in (tmp_path / "run" / "last").iterdir()} == before
    assert zygote.run(argv, log) == 0, log.read_text()


def test_a_full_release_continues_with_its_moments(folder, program, tmp_path):
    """Stopping, converting to TensorFlow's format and continuing changes nothing."""
    settings = {"dropout": 0.0, "dropatt": 0.0, "overwrite_keys": "dropout,dropatt"}
    # The schedule of all three is the same, flat but for the warm-up.
    settings |= {"min_lr": 1e-2, "warmup_steps": 0, "config": folder / "net_config.json"}
    for name, steps, begin in (("complete", 9, None), ("half", 6, None), ("on", 9, "release")):
        start = None if begin is None else tmp_path / begin
        argv = arguments(folder, tmp_path / name, **settings, train_steps=steps, init_ckpt=start)
        assert invoke(program, argv) == 0
        if name == "half":
            full_release(tmp_path / "half" / "last", tmp_path / "release")
    rows = [row for row in curve(tmp_path / "complete") if row["step"] > 6]
    for ours, theirs in zip(curve(tmp_path / "on"), rows, strict=True):
        assert_close(ours, theirs)


def full_release(checkpoint, target):
    """A PyTorch checkpoint with its training state as a FULL TensorFlow release."""
    from funnel_torch.models.weight_mapping import variable_views

    found = load_checkpoint(checkpoint)
    state = torch.load(checkpoint / "training_state.pt", weights_only=True)["optimizer"]
    model = ElectraPretraining.from_pretrained(checkpoint)
    parameters = dict(model.named_parameters())
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    entries = dict(zip(parameters, (state["state"][n] for n in numbers), strict=True))
    for name, _, view in variable_views(model, model.config):
        for key in ("m", "v"):
            found.optimizer[f"{view.name}/adam_{key}"] = view.select(entries[name][key]).numpy()
    found.optimizer["global_step"] = torch.tensor(state["param_groups"][0]["step"]).numpy()
    save_checkpoint(found, target, "tf")
    return target


def test_damaged_records(folder, program, capsys, tmp_path):
    shutil.copytree(folder / "records", tmp_path / "records")
    path = next((tmp_path / "records").glob("data.train.*00000-of*"))
    flip(path, path.stat().st_size - 20)
    argv = arguments(folder, None, debug=True, record_dir=tmp_path / "records", train_steps=40)
    refuse(program, capsys, argv, str(path), "record ", "checksum")
    assert invoke(program, [*argv, "--skip_corrupt"]) == 0
    assert capsys.readouterr().err.count("replaced by the next good record") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"record_dir": None}, ["--record_dir is needed"]),
        ({"record_dir": "/nowhere"}, ["/nowhere"]),
        ({"model_dir": None}, ["--model_dir is needed"]),
        ({"seq_len": 32}, ["no records of train pass-0 seq-32", "seq-16"]),
        ({"cased": True}, ["no records", "uncased"]),
        ({"num_predict": 13}, ["num_predict", "13"]),
        ({"eval_split": "test"}, ["no records of test"]),
        ({"width_shrink": 0}, ["width_shrink"]),
        ({"log_steps": 0}, ["--log_steps=0"]),
        ({"train_steps": 0}, ["train_steps=0"]),
        ({"shuffle_buffer": 2}, ["shuffle_buffer=2"]),
        ({"fsdp": True}, ["--fsdp", "torchrun"]),
        ({"loss_type": "gan"}, ["loss_type", "gan"]),
        ({"eval_only": True, "eval_split": None}, ["--eval_split is needed"]),
    ],
)
def test_wrong_flags(folder, program, capsys, changes, words, tmp_path):
    changes = {"model_dir": tmp_path / "run"} | changes
    refuse(program, capsys, arguments(folder, **changes), *words)
    assert not (tmp_path / "run" / "last").exists()


def test_finished_runs_and_releases_say_so(electra, folder, program, capsys, tmp_path):
    again = arguments(folder, "electra", train_steps=60, eval_steps=30)
    refuse(program, capsys, again, str(electra), "finished")
    release = full_release(electra / "last", tmp_path / "release")
    argv = arguments(folder, tmp_path / "run", init_ckpt=release, train_steps=60)
    refuse(program, capsys, argv, "has made 60 already", "--no-init_global_vars")
    assert invoke(program, [*argv, "--no-init_global_vars", "--train_steps=2"]) == 0


def test_help_groups_every_flag(program, capsys):
    assert invoke(program, ["--help"]) == 0
    text = capsys.readouterr().out
    for group in ("what to run", "records", "targets", "large models", "optimizer, in detail"):
        assert group in text
