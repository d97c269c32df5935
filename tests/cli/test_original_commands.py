"""The original's scripts and README commands, paths alone edited: they run, and write its files.

What is written beyond these files is listed in docs/differences.md.
"""

import json
import shutil

import pytest

from support_tf import import_tensorflow

import_tensorflow()
pytest.importorskip("torch")

from funnel.formats.tensor_bundle import TFCheckpoint
from original_commands import (
    CLASSIFIER,
    CONVERT,
    CREATE_DATA,
    MODIFY,
    PRETRAIN,
    TF_CLASSIFIER,
    TF_RACE,
    TINY_PRETRAINING,
    TINY_RECORDS,
    TINY_TF,
    TINY_TORCH,
    names,
    run,
    run_process,
    write_data,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ANSWERS = ("predictions.json", "nbest_predictions.json", "null_odds.json")
LOGGING = ("--alsologtostderr", "--verbosity=-1")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Return a folder with data, records in DIR, and a pretraining run in EXP."""
    folder = tmp_path_factory.mktemp("original")
    write_data(folder)
    for split in ("train", "dev"):
        for task in range(8):
            assert run(CREATE_DATA, folder, *LOGGING, **TINY_RECORDS, task=task, split=split) == 0
    assert run(PRETRAIN, folder, *LOGGING, **TINY_PRETRAINING) == 0
    return folder


@pytest.fixture(scope="module")
def released(pretrained):
    """Return that folder with CKPT, made of the pretraining run as the releases were."""
    full, core = pretrained / "FULL", pretrained / "CKPT"
    full.mkdir()
    for file in (pretrained / "EXP").glob("model.ckpt-4.*"):
        shutil.copy(file, full / file.name.replace("-4.", ".", 1))
    assert run(MODIFY, pretrained) == 0
    shutil.copy(pretrained / "EXP" / "net_config.json", core)
    shutil.copy(pretrained / "vocab.txt", core / "vocab.uncased.txt")
    return pretrained


@pytest.fixture
def workspace(released, tmp_path):
    """Return an empty folder with links to data and CKPT."""
    for name in ("CKPT", "GLUE", "RACE", "squad"):
        (tmp_path / name).symlink_to(released / name)
    return tmp_path


def test_pretraining_records_and_run(pretrained):
    tails = [f"{task:05d}-of-00008" for task in range(8)]
    expected = {
        f"{kind}.{split}.pass-0.seq-24.uncased.{suffix}-{tail}"
        for split in ("train", "dev")
        for kind, suffix in (("data", "tfrecord"), ("meta", "json"))
        for tail in tails
    }
    assert names(pretrained / "DIR") == expected
    found = names(pretrained / "EXP")
    assert {"checkpoint", "net_config.json", "model.ckpt-4.index"} <= found
    variables = TFCheckpoint(pretrained / "EXP" / "model.ckpt-4")
    parts = ("global_step", "generator/lm_loss/bias", "model/binary_loss/weight/adam_m")
    assert all(name in variables for name in parts)


def test_full_release_cut_to_its_core(released):
    full = TFCheckpoint(released / "FULL" / "model.ckpt")
    core = TFCheckpoint(released / "CKPT" / "model.ckpt")
    assert {n for n in full if n.startswith("model/") and "/adam_" not in n} == set(core)


def test_tensorflow_classifier(workspace):
    assert run(TF_CLASSIFIER, workspace, *LOGGING, **TINY_TF) == 0
    record = "vocab.uncased.txt.len-32"
    parts = (f"{record}.{split}.tfrecord" for split in ("train", "dev", "test"))
    assert names(workspace / "PROC") >= set(parts)
    best = json.loads((workspace / "EXP" / "best_result.json").read_text())
    assert best["path"].startswith("EXP/model.ckpt-") and best["accu"] == best["score"]
    rows = (workspace / "EXP" / "submit" / "RTE.tsv").read_text().splitlines()
    assert len(rows) == 6 and rows[0] == "index\tprediction"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_squad_scripts(workspace, version):
    squad = workspace / "squad"
    files = {"TRAIN_FILE": squad / "train.json", "PREDICT_FILE": squad / "dev.json"}
    common = {"SQUAD_DIR": "squad", "CKPT_DIR": "CKPT", "OUTPUT_DIR": "PROC", "MODEL_DIR": "EXP"}
    common |= {"VERSION": version, "MAX_LENGTH": 32, **files}
    cut = ["--max_query_length=4", "--doc_stride=8"]
    run_process(["tensorflow/scripts/prepro_squad.sh", *cut], workspace, **common, NUM_PROC=2)
    ending = ".v1" if version == "v1" else ""
    record = "vocab.uncased.txt{}.slen-32.qlen-4.{}" + ending + ".tfrecord"
    parts = {record.format(f".{i}", "train") for i in (0, 1)} | {record.format("", "eval")}
    assert names(workspace / "PROC") >= parts

    # The machine with the TPU has the records, not the file that they were made from.
    common |= {"TRAIN_FILE": "gone.json", "USE_TPU": False, "BATCH": 4, "STEPS": 4, "WARMUP": 1}
    more = ["--predict_batch_size=8", "--save_logits", "--eval_start_step=0", *LOGGING]
    script = ["tensorflow/scripts/tpu_squad.sh", *cut, *more]
    run_process(script, workspace, **common, SAVE_STEPS=2)
    found = names(workspace / "EXP")
    assert {f"{step}.{name}" for step in (2, 4) for name in (*ANSWERS, "logits.json")} <= found
    assert {*ANSWERS, "best_result.json"} <= found


def test_tensorflow_race(workspace):
    tiny = TINY_TF | {"max_qa_length": 8, "eval_batch_size": 8}
    assert run(TF_RACE, workspace, *LOGGING, **tiny) == 0
    parts = {f"vocab.uncased.txt.len-32.{split}.tfrecord" for split in ("train", "dev")}
    assert names(workspace / "PROC") >= parts
    best = json.loads((workspace / "EXP" / "best_result.json").read_text())
    assert best["accu"] == best["score"] and best["path"].startswith("EXP/model.ckpt-")


def test_tensorflow_finetune_script(workspace):
    settings = {"TASK": "CoLA", "DATA_DIR": "GLUE/CoLA", "OUTPUT_DIR": "PROC", "MODEL_DIR": "EXP"}
    settings |= {"CKPT_DIR": "CKPT", "BATCH": 4, "STEPS": 4, "MAX_LENGTH": 16, "SAVE_STEPS": 2}
    run_process(["tensorflow/scripts/finetune.sh", "--alsologtostderr"], workspace, **settings)
    best = json.loads((workspace / "EXP" / "best_result.json").read_text())
    assert best["corr"] == best["score"] and 0 <= best["accu"] <= 1
    assert len((workspace / "EXP" / "submit" / "CoLA.tsv").read_text().splitlines()) == 10


def _convert(workspace):
    """Run the converter; it also keeps the decoder, which the original's did not write."""
    assert run(CONVERT, workspace, "--logtostderr") == 0
    assert names(workspace / "PT") >= {"model.pt", "net_config.pytorch.json"}


def test_conversion_then_pytorch_classifier_then_prediction_alone(workspace):
    _convert(workspace)
    flags = ("--fp16", "--amp_opt=O0", "--ddp_backend=PyTorch")
    assert run(CLASSIFIER, workspace, *flags, **TINY_TORCH) == 0
    scores = json.loads((workspace / "EXP" / "final_scores.json").read_text())
    # classifier.sh --test_only --write_prediction: the initial checkpoint is still named.
    alone = ("--test_only", "--write_prediction")
    assert run(CLASSIFIER, workspace, *flags, *alone, **TINY_TORCH) == 0
    again = json.loads((workspace / "EXP" / "final_scores.json").read_text())
    assert again["dev"] == pytest.approx(scores["dev"])
    for name, count in (("valid_results.txt", 12), ("test_results.txt", 9)):
        labels = (workspace / "EXP" / name).read_text().splitlines()
        assert len(labels) == count and set(labels) <= {"0", "1"}


def test_pytorch_classifier_in_several_processes(workspace):
    _convert(workspace)
    tiny = TINY_TORCH | {"device_id": -1, "distributed_world_size": 2}
    words = CLASSIFIER.replace("classifier.py", "multigpu_classifier.py").split()[1:]
    run_process([*words, *(f"--{k}={v}" for k, v in tiny.items())], workspace)
    assert names(workspace / "EXP") >= {"best", "last", "final_scores.json", "best_result.json"}
