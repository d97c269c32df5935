"""Caches and id files (.npz) that are corrupt in their structure: refused or rebuilt, in bounds."""

import io
import json
import random
import tracemalloc
import zipfile

import numpy as np
import pytest

from funnel.config.inputs import SegmentIds
from funnel.features.feature_inputs import IdSequences
from funnel.features.pair_sequences import PairSequences
from funnel.features.squad import EncodedParagraphs, SquadWindows
from funnel.features.squad_cache import load_windows, save_windows
from funnel.utils.errors import DataError
from funnel.utils.npz import read_npz

IDS = {
    "input_ids": np.arange(12).reshape(3, 4),
    "attention_mask": np.ones((3, 4), np.int8),
}


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def write_npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            raw = content if isinstance(content, bytes) else npy(content)
            archive.writestr(f"{name}.npy", raw)
    return path


def restated(array, **header):
    """Return an array's bytes under a header with other values."""
    stream = io.BytesIO()
    values = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    np.lib.format.write_array_header_1_0(stream, values)
    return stream.getvalue() + array.tobytes()


ARRAY = np.arange(12)
BROKEN = {
    "huge": restated(ARRAY, shape=(1 << 40,)),
    "beyond 64 bits": restated(ARRAY, shape=(1 << 40, 1 << 40)),
    "negative": restated(ARRAY, shape=(-12,)),
    "shorter": restated(ARRAY, shape=(11,)),
    "no shape": restated(ARRAY, shape="abc"),
    "no type": restated(ARRAY, descr="nothing"),
    "objects": npy(np.array([{}], object)),
    "no header": b"\x93NUMPY\x01\x00\xff\xff{",
    "another version": b"\x93NUMPY\x09\x00" + bytes(100),
    "text": b"text",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_arrays(tmp_path, kind):
    path = write_npz(tmp_path / "a.npz", IDS | {"input_ids": BROKEN[kind]})
    tracemalloc.start()
    for read in (read_npz, lambda p: IdSequences(p, 100)):
        with pytest.raises(DataError, match=r"a\.npz: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_bombs_and_files_of_another_kind(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("input_ids.npy", restated(np.zeros(0, np.int8), shape=(3 << 30,)))
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DataError, match="unpacks to over 100 times its size"):
        read_npz(path)
    path.write_bytes(restated(ARRAY, shape=(1 << 40,)))  # .npy under the name .npz
    with pytest.raises(DataError, match="not a readable .npz file"):
        IdSequences(path, 100)
    with pytest.raises(DataError, match=r"none\.npz: cannot be read: No such file"):
        IdSequences(tmp_path / "none.npz", 100)


def windows():
    sequences = PairSequences(
        np.arange(10, 20, dtype=np.int32),
        np.array([0, 0]), np.array([2, 2]), np.array([2, 5]), np.array([5, 5]),
        3, 4, SegmentIds(),
    )  # fmt: skip
    ends = np.arange(1, 9, dtype=np.int32)
    paragraphs = EncodedParagraphs(ends + 11, ends - 1, ends, np.array([0, 8]))
    columns = ([0, 0], [0, 0], [0, 3], [4, 4], [7, 9])
    return SquadWindows(sequences, paragraphs, *map(np.array, columns))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_sound_files_are_read(tmp_path, save):
    save(tmp_path / "a.npz", **IDS)
    for name, array in next(IdSequences(tmp_path / "a.npz", 100).batches(9)).to_dict().items():
        np.testing.assert_array_equal(array, IDS[name])
    save_windows(tmp_path / "w.npz", windows(), "key")
    assert load_windows(tmp_path / "w.npz", "other") is None
    found = load_windows(tmp_path / "w.npz", "key")
    np.testing.assert_array_equal(found.sequences.tokens, windows().sequences.tokens)


def test_mutated_caches_are_rebuilt_or_mean_the_same(tmp_path, caplog):
    """Other sizes, types and numbers in valid arrays, and bytes of the file."""
    rng, path = random.Random(5), tmp_path / "w.npz"
    save_windows(path, windows(), "key")
    good, arrays = path.read_bytes(), read_npz(path)
    rebuilt = 0
    for number in range(200):
        if number % 2:
            raw = bytearray(good)
            for _ in range(3):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            path.write_bytes(raw)
        else:
            changed = dict(arrays)
            name = rng.choice([name for name in arrays if name != "key"])
            values, kind = changed.pop(name), rng.randrange(5)
            if kind == 0:
                values = values[:-1]
            elif kind == 1:
                values = values.astype(np.float32)
            elif kind == 2:
                values = np.full_like(values, rng.choice([-1, 1000]))
            elif kind == 3:
                values = values[None]
            if kind < 4:
                changed[name] = values
            write_npz(path, changed)
        found = load_windows(path, "key")
        if found is None:
            rebuilt += 1
            continue
        batch = found.pad(np.arange(len(found)), 16, pad_id=0)
        assert batch["input_ids"].shape == (2, 16)
        for window in range(len(found)):
            found.paragraphs.characters(int(found.paragraph[window]), 0, 1)
    assert 100 < rebuilt < 200
    assert "corrupt, it is rebuilt" in caplog.text


def test_descriptions_of_features_are_checked(tmp_path):
    from funnel.features.record_files import meta_path
    from funnel.features.record_schema import classifier_schema
    from funnel.features.tfrecords import RecordOptions, RecordSource, load_or_write

    schema, path, built = classifier_schema(4), tmp_path / "a.tfrecord", []

    def batches(source):
        built.append(1)
        yield {name: np.zeros((3, *spec.shape), spec.dtype) for name, spec in schema.fields.items()}

    def load():
        return load_or_write(path, schema, {"task": "t"}, RecordSource(batches), RecordOptions())

    assert load().num_examples == load().num_examples == 3 and len(built) == 1
    meta = json.loads(meta_path(path).read_text())
    changes = [{"num_examples": n} for n in (2, 4, -1, 0, True, "3", 3.0, 10**30)]
    changes += [{"num_real_examples": 4}, {"num_real_examples": 0}, {"num_bytes": None}]
    for count, change in enumerate(changes, start=2):
        meta_path(path).write_text(json.dumps(meta | change))
        assert load().num_examples == 3 and len(built) == count, change
    for text in ("[" * 100_000, '{"num_bytes": ' + "9" * 6000 + "}", "[]", "\udc80"):
        meta_path(path).write_bytes(text.encode("utf-8", "surrogateescape"))
        assert load().num_examples == 3
