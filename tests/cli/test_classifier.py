"""classifier.py end to end on a tiny task: output files, errors, predictions and submissions."""

import json
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from classifier_runs import (
    PYTORCH,
    arguments,
    curve,
    invoke,
    load_program,
    refuse,
    write_files,
)
from funnel.checkpoints import load_checkpoint

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def program():
    return load_program("classifier")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, program):
    """A finished run that others only read; with its files."""
    folder = tmp_path_factory.mktemp("finished")
    write_files(folder)
    flags = {"write_prediction": True, "do_submit": True, "output_dir": folder / "cache"}
    assert invoke(program, arguments(folder, lr=5e-3, **flags)) == 0
    return folder


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path)
    return tmp_path


def test_a_run_writes_all_its_files(finished):
    run = finished / "run"
    names = {item.name for item in run.iterdir() if not item.name.startswith("events.")}
    assert names == {
        *("run_config.json", "net_config.json", "metrics.jsonl", "best_result.json"),
        *("best", "last", "submit", "test_results.txt", "valid_results.txt", "final_scores.json"),
    }
    record = json.loads((run / "run_config.json").read_text())
    assert record["settings"]["lr"] == 5e-3
    assert record["seed"] == 1
    assert record["model"]["truncate_seq"] is True
    rows = curve(run)
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 13))
    assert [row["step"] for row in rows if row["split"] == "dev"] == [6, 12]
    best = json.loads((run / "best_result.json").read_text())
    scores = [row["matthews_corr"] for row in rows if row["split"] == "dev"]
    assert best["score"] == max(scores)
    final = json.loads((run / "final_scores.json").read_text())
    assert final["dev"]["matthews_corr"] == best["score"]
    progress = json.loads((run / "last" / "progress.json").read_text())
    assert progress == {"step": 12, "total_steps": 12, "finished": True}
    checkpoint = load_checkpoint(run / "best")
    assert checkpoint.metadata["cls_scope"] == "cola"
    assert (run / "best" / "vocab.txt").read_bytes() == (finished / "vocab.txt").read_bytes()


def test_prediction_and_submission_files(finished):
    run = finished / "run"
    submission = (run / "submit" / "CoLA.tsv").read_text().splitlines()
    assert submission[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in submission[1:]] == [str(i) for i in range(9)]
    assert {line.split("\t")[1] for line in submission[1:]} <= {"0", "1"}
    labels = [line.split("\t")[1] for line in submission[1:]]
    assert (run / "test_results.txt").read_text().splitlines() == labels
    assert len((run / "valid_results.txt").read_text().splitlines()) == 12


def test_finished_run_is_not_overwritten(finished, program, capsys):
    before = (finished / "run" / "metrics.jsonl").read_bytes()
    same = arguments(finished, lr=5e-3)
    refuse(program, capsys, same, "finished", "--resume", "--overwrite")
    refuse(program, capsys, arguments(finished, lr=1e-2), "another run", "lr was 0.005")
    refuse(program, capsys, [*same, "--resume", "--overwrite"], "contradict")
    assert (finished / "run" / "metrics.jsonl").read_bytes() == before


def test_finished_run_can_be_evaluated_again(finished, program, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    argv = arguments(finished, lr=5e-3, resume=True, write_prediction=True, valid_bsz=5)
    argv.append(f"--model_dir={tmp_path / 'run'}")
    (tmp_path / "run" / "valid_results.txt").unlink()
    assert invoke(program, argv) == 0
    for name in ("valid_results.txt", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (finished / "run" / name).read_text()


@pytest.mark.parametrize("source", ["model_dir", "init_ckpt"])
def test_test_only(finished, program, tmp_path, source):
    shutil.copytree(finished / "run" / "best", tmp_path / "run" / "best")
    argv = arguments(finished, test_only=True, write_prediction=True, init_ckpt_config=None)
    argv.remove(f"--tokenizer_path={finished / 'vocab.txt'}")  # then it is found with the weights
    if source == "init_ckpt":
        argv.append(f"--init_ckpt={tmp_path / 'run' / 'best'}")
        argv.append(f"--model_dir={tmp_path / 'other'}")
    else:
        argv.append(f"--model_dir={tmp_path / 'run'}")
    assert invoke(program, argv) == 0
    written = tmp_path / ("run" if source == "model_dir" else "other")
    for name in ("valid_results.txt", "test_results.txt", "final_scores.json"):
        assert (written / name).read_text() == (finished / "run" / name).read_text()
    assert not (written / "metrics.jsonl").exists()


def test_overwrite_starts_anew(folder, program):
    argv = arguments(folder, epochs=1, n_log_epoch=1)
    assert invoke(program, argv) == 0
    assert invoke(program, [*argv, "--lr=1e-2", "--overwrite"]) == 0
    assert len(curve(folder / "run")) == 2
    record = json.loads((folder / "run" / "run_config.json").read_text())
    assert record["settings"]["lr"] == 1e-2


def test_debug_leaves_nothing(folder, program):
    before = sorted(folder.rglob("*"))
    assert invoke(program, arguments(folder, debug=True, epochs=1)) == 0
    assert sorted(folder.rglob("*")) == before


def test_fine_tuned_model_starts_another_task(finished, program, tmp_path, capsys):
    """Two labels into three: refused, unless a new head is asked for. Own jsonl data."""
    labels = ("one", "two", "cat")
    for split in ("train", "dev", "test"):
        rows = [{"text": f"a {labels[i % 3]} film", "label": labels[i % 3]} for i in range(12)]
        if split == "test":
            rows = [{"text": row["text"]} for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    changes = {"dataset": "jsonl", "data_dir": tmp_path, "model_dir": tmp_path / "run"}
    changes |= {"init_ckpt": finished / "run" / "best", "init_ckpt_config": None}
    argv = arguments(finished, **changes, epochs=1, do_submit=True)
    refuse(program, capsys, argv, "has 2 outputs, the task needs 3", "--new_head")
    assert not (tmp_path / "run").exists()
    assert invoke(program, [*argv, "--new_head"]) == 0
    assert load_checkpoint(tmp_path / "run" / "best").metadata["labels"] == ["cat", "one", "two"]
    lines = (tmp_path / "run" / "submit" / "predictions.tsv").read_text().splitlines()
    assert len(lines) == 13
    assert {line.split("\t")[1] for line in lines[1:]} <= set(labels)


def test_regression_on_own_tsv_without_header(folder, program):
    for split in ("train", "dev"):
        rows = [f"{i / 7}\ta good film\tnot a cat\n" for i in range(10)]
        (folder / f"{split}.tsv").write_text("".join(rows))
    argv = arguments(folder, dataset="tsv", data_dir=folder, regression=True, no_header=True)
    argv += ["--label_column=0", "--text_column=1", "--text_b_column=-1", "--epochs=1"]
    assert invoke(program, [*argv, "--write_prediction", "--indexed_predictions"]) == 0
    scores = json.loads((folder / "run" / "best_result.json").read_text())["scores"]["dev"]
    assert next(iter(scores)) == "pearson_spearman"
    predictions = (folder / "run" / "valid_results.txt").read_text().splitlines()[1:]
    assert all(float(line.split("\t")[1]) < 10 for line in predictions)


@pytest.mark.parametrize(
    "extra",
    [
        ["--bf16", "--optimizer=funnel_adamw", "--use_wd_exclusion", "--lr_layer_decay_rate=0.75"],
        ["--fp16", "--grad_accum=2", "--num_workers=1", "--decay_method=cos"],
        ["--attn_type=factorized", "--no-truncate_seq", "--layer_decay=lr", "--train_steps=3"],
        ["--overwrite_keys=block_size,dropout", "--block_size=2_1", "--dropout=0", "--clip=0"],
    ],
)
def test_switches_work_together(folder, program, extra):
    assert invoke(program, [*arguments(folder, epochs=1), *extra]) == 0
    assert (folder / "run" / "best" / "model.safetensors").is_file()
    if "--block_size=2_1" in extra:
        config = json.loads((folder / "run" / "net_config.json").read_text())
        assert (config["block_size"], config["dropout"]) == ("2_1", 0.0)


def damage(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


BAD_INPUT = {
    "no such file": (lambda f: (f / "CoLA/dev.tsv").unlink(), ["dev.tsv"]),
    "column count": (lambda f: (f / "CoLA/dev.tsv").write_text("a\t1\n" * 9), ["dev.tsv"]),
    "unknown label": (lambda f: damage(f / "CoLA/dev.tsv", "src\t1", "src\t7"), ["dev.tsv:", "7"]),
    "empty file": (lambda f: (f / "CoLA/train.tsv").write_text(""), ["train.tsv", "empty"]),
    "vocabulary without symbols": (lambda f: damage(f / "vocab.txt", "<cls>\n", ""), ["vocab.txt"]),
    "config key missing": (
        lambda f: damage(f / "net_config.json", '"n_head": 2, ', ""),
        ["net_config.json", "n_head"],
    ),
    "config value wrong": (
        lambda f: damage(f / "net_config.json", '"n_head": 2', '"n_head": 3'),
        ["net_config.json", "n_head"],
    ),
    "config no JSON": (lambda f: (f / "net_config.json").write_text("{"), ["net_config.json"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_writes_nothing(folder, program, capsys, case):
    spoil, words = BAD_INPUT[case]
    spoil(folder)
    refuse(program, capsys, arguments(folder, output_dir=folder / "cache"), *words)
    assert not (folder / "run").exists()
    assert not (folder / "cache").exists()


@pytest.mark.parametrize("case", ["truncated", "flipped", "missing", "pickle"])
def test_bad_checkpoint_is_one_line_and_writes_nothing(finished, tmp_path, program, capsys, case):
    checkpoint = tmp_path / "ckpt"
    shutil.copytree(finished / "run" / "best", checkpoint)
    weights = checkpoint / "model.safetensors"
    data = weights.read_bytes()
    if case == "truncated":
        weights.write_bytes(data[:-100])
    elif case == "flipped":
        weights.write_bytes(data[:20] + b"\xff" + data[21:])
    elif case == "missing":
        checkpoint = tmp_path / "nowhere"
    else:
        checkpoint = tmp_path / "model.pt"
        torch.save({"weights": print}, checkpoint)
    argv = arguments(finished, init_ckpt=checkpoint, model_dir=tmp_path / "run")
    refuse(program, capsys, argv, str(tmp_path))
    assert not (tmp_path / "run").exists()


WRONG_FLAGS = {
    "--dataset=kola": ["kola", "cola"],
    "--data_dir=/nowhere": ["/nowhere"],
    "--tokenizer_path=/nowhere/vocab.txt": ["/nowhere/vocab.txt"],
    "--tokenizer_path=": ["--tokenizer_path is needed"],
    "--train_bsz=0": ["batch_size=0"],
    "--max_length=2": ["max_length"],
    "--epochs=0": ["epochs"],
    "--min_lr=1": ["min_lr"],
    "--valid_bsz=0": ["--valid_bsz=0"],
    "--learning_rat=1": ["--learning_rat", "did you mean --lr"],
    "--overwrite_keys=depth": ["depth"],
    "--test_only": ["--test_only", "run/best"],
}


@pytest.mark.parametrize("flag", WRONG_FLAGS)
def test_wrong_flags_write_nothing(folder, program, capsys, flag):
    refuse(program, capsys, [*arguments(folder), flag], *WRONG_FLAGS[flag])
    assert not (folder / "run").exists()


def test_foreign_directory_is_left_alone(folder, program, capsys):
    (folder / "run").mkdir()
    (folder / "run" / "model.ckpt-1.index").write_text("")
    refuse(program, capsys, arguments(folder), "model.ckpt-1.index")
    assert [item.name for item in (folder / "run").iterdir()] == ["model.ckpt-1.index"]


@pytest.mark.slow
def test_exit_status_and_output_of_the_real_program(folder):
    """From another directory, uninstalled, as a user types it."""
    command = [sys.executable, str(PYTORCH / "classifier.py"), *arguments(folder, dataset="kola")]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert [line for line in result.stderr.splitlines() if "error" in line.lower()] == [
        result.stderr.splitlines()[-1]
    ]
    assert "Traceback" not in result.stderr
