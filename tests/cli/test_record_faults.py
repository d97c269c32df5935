"""Both pretraining programs on record files that lie: status 2 and one line, never a hang."""

import importlib.util
import shutil

import numpy as np
import pytest

import classifier_runs
import pretrain_runs
import tf_program_runs
from classifier_runs import invoke, refuse
from funnel.formats.tfrecord import encode_example, read_examples, write_records
from pretrain_runs import SEQ_LEN

pytestmark = pytest.mark.slow

BACKENDS = ("torch", "tensorflow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    pretrain_runs.write_files(folder)
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    spec = importlib.util.find_spec(request.param)
    if spec is None or spec.origin is None:  # the repository's own folder: no __init__.py
        pytest.skip(f"{request.param} is not installed")
    load = {"torch": classifier_runs.load_program, "tensorflow": tf_program_runs.load_tf_program}
    return request.param, load[request.param]("pretrain")


def command(backend, folder, records, run):
    if backend == "torch":
        changes = {"record_dir": records, "train_steps": 60, "eval_split": None}
        return pretrain_runs.arguments(folder, run, loss_type="mlm", **changes)
    flags = {
        "use_tpu": False,
        "num_core_per_host": 1,
        "model_config": folder / "net_config.json",
        "record_dir": records,
        "tokenizer_path": folder / "vocab.txt",
        "model_dir": run,
        "loss_type": "mlm",
        "seq_len": SEQ_LEN,
        "num_predict": 4,
        "train_batch_size": 4,
        "train_steps": 60,
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def empty(path):
    path.write_bytes(b"")


def shorten(path):
    records = [encode_example(features) for _, features in read_examples(path)]
    write_records(path, records[:-1])


def change(**values):
    def spoil(path):
        examples = [features for _, features in read_examples(path)]
        for name, value in values.items():
            examples[1][name] = np.full_like(examples[1][name], value)
        write_records(path, map(encode_example, examples))

    return spoil


def garbage(path):
    records = [encode_example(features) for _, features in read_examples(path)]
    write_records(path, [records[0], b"\xff\xfe garbage \x80" * 9, *records[2:]])


FAULTS = {
    "empty": (empty, "its description states"),
    "too few": (shorten, "according to its description"),
    "segment 7": (change(seg_id=7), "record 1", "'seg_id'", "7"),
    "segment -1": (change(seg_id=-1), "record 1", "'seg_id'", "-1"),
    "id 2^32 + 10": (change(input=(1 << 32) + 10), "record 1", str((1 << 32) + 10)),
    "smallest int64": (change(input=-(1 << 63)), "record 1", str(-(1 << 63))),
    "garbage": (garbage, "record 1", "no Example"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tmp_path, folder, backend, fault, capsys):
    name, program = backend
    spoil, *words = FAULTS[fault]
    records = shutil.copytree(folder / "records", tmp_path / "records")
    files = sorted(records.glob("data.train*"))
    for path in files if fault == "empty" else files[1:]:
        spoil(path)
    shown = files[0 if fault == "empty" else 1].name
    refuse(program, capsys, command(name, folder, records, tmp_path / "run"), shown, *words)


def test_sound_records_are_read(tmp_path, folder, backend):
    name, program = backend
    assert invoke(program, command(name, folder, folder / "records", tmp_path / "run")) == 0
