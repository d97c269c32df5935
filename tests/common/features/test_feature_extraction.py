"""Input and output of feature extraction: batch by batch, selected, pooled, in bounded memory."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from corpus_cases import tiny_tokenizer
from funnel.config.extraction import OutputSettings
from funnel.config.model import ModelConfig
from funnel.features.feature_extraction import (
    ModelParts,
    OutputSelection,
    extract_to_file,
    pool_masks,
    pool_outputs,
    select_outputs,
)
from funnel.features.feature_inputs import IdSequences, ModelInputs, TextSequences
from funnel.formats.npz_rows import NpzRowReader, atomic_npz
from funnel.utils import scratch, text_files
from funnel.utils.errors import ConfigError, DataError, FunnelError

CONFIG = ModelConfig(20, 8, 8, 2, 4, 16, "2_1_1")
EVERYTHING = ModelParts(decoder=True, summary=True, discriminator=True)
LINES = ["a b c d .", "a\tb bxy", "", " ", "zzz a", "a b c d e f g h a b c d e f g h", "h"]


def _batches(sequences, size, padded=None):
    return [batch.to_dict() for batch in sequences.batches(size, padded)]


def _fake_extract(input_ids, token_type_ids=None, attention_mask=None, names=()):
    """Return outputs that depend on the ids alone, in the shapes of CONFIG."""
    lengths = [mask.shape[1] for mask in pool_masks(input_ids, CONFIG)]
    shapes = {"embedding": 0, "hidden_0": 0, "hidden_1": 0, "hidden_2": 1, "hidden_3": 2}
    return {
        name: (input_ids[:, : lengths[shapes[name]], None] + np.arange(8)).astype(np.float32)
        for name in names
    }


# --------------------------------------------------------------------------------------- the files


def test_rows_are_written_as_one_array(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.random((7, 3, 2), np.float32),
        "b": np.arange(7),
        "c": np.zeros((7, 2), bool),
    }
    with atomic_npz(tmp_path / "x.npz") as rows:
        for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
            rows.append({name: array[part] for name, array in arrays.items()})
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_npz(tmp_path / "x.npz") as rows:
        rows.append({"a": np.zeros((2, 2))})
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="after float64"), atomic_npz(tmp_path / "x.npz") as rows:
        rows.append({"a": np.zeros((2, 2))})
        rows.append({"a": np.zeros((2, 3))})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    message = r"x\.npz: cannot be written: No space left on device"
    with pytest.raises(FunnelError, match=message), atomic_npz(tmp_path / "x.npz") as rows:
        rows.append({"a": np.zeros((2, 2))})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_are_read_as_numpy_reads_them(tmp_path, save):
    ids = np.random.default_rng(0).integers(0, 20, (10, 6)).astype(np.int32)
    arrays = {"input_ids": ids, "token_type_ids": np.asfortranarray(ids % 3)}
    save(tmp_path / "in.npz", **arrays, other=np.zeros(3))
    sequences = IdSequences(tmp_path / "in.npz", 20)
    assert (len(sequences), sequences.length) == (10, 6)
    batches = _batches(sequences, 4)
    assert [len(batch["input_ids"]) for batch in batches] == [4, 4, 2]
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), array)
        assert batches[0][name].dtype == np.int64


def _damaged(path, change):
    np.savez_compressed(path, input_ids=np.arange(2000).reshape(100, 20) % 7)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))


def _flip(data):
    data[120] ^= 0xFF


def _cut(data):
    del data[len(data) // 2 :]


@pytest.mark.parametrize("change", [_flip, _cut, bytearray.clear])
def test_a_damaged_file_is_one_line(tmp_path, change):
    _damaged(tmp_path / "in.npz", change)
    with pytest.raises(DataError, match=r"in\.npz: not a readable \.npz file of arrays"):
        IdSequences(tmp_path / "in.npz", 20)


@pytest.mark.parametrize("shape", [(10**12, 6), (3, 10**12), (3, 7)])
def test_a_header_that_claims_more_than_there_is(tmp_path, shape):
    header = {"descr": "<i8", "fortran_order": False, "shape": shape}
    with (
        zipfile.ZipFile(tmp_path / "in.npz", "w") as archive,
        archive.open("input_ids.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        member.write(np.zeros((3, 6), np.int64).tobytes())
    with pytest.raises(DataError, match="not a readable"):
        IdSequences(tmp_path / "in.npz", 20)


def test_python_objects_are_refused(tmp_path):
    np.savez(tmp_path / "in.npz", input_ids=np.array([[{}]], dtype=object))
    with pytest.raises(DataError, match="pickled objects"):
        NpzRowReader(tmp_path / "in.npz", ["input_ids"])


# ---------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("held", [1, 1 << 20])
def test_lines_are_sequences(tmp_path, monkeypatch, end, held):
    monkeypatch.setattr(scratch, "_HELD_BYTES", held)
    monkeypatch.setattr("funnel.features.feature_inputs._LINES", 2)
    (tmp_path / "in.txt").write_bytes(("\ufeff" + "\r\n".join(LINES) + end).encode())
    sequences = TextSequences(tmp_path / "in.txt", tiny_tokenizer(tmp_path), 10)
    assert (len(sequences), sequences.length) == (7, 10)
    batches = _batches(sequences, 3)
    assert [batch["input_ids"].shape for batch in batches] == [(3, 10), (3, 10), (1, 10)]
    ids = np.concatenate([batch["input_ids"] for batch in batches]).tolist()
    mask = np.concatenate([batch["attention_mask"] for batch in batches])
    assert mask.sum(axis=1).tolist() == [7, 8, 2, 2, 4, 10, 3]
    assert ids[1] == [3, 9, 4, 10, 10, 17, 18, 4, 5, 5]
    assert batches[0]["token_type_ids"][1].tolist() == [2, 0, 0, 1, 1, 1, 1, 1, 0, 0]
    short = _batches(sequences, 3, lambda longest: longest + 1)
    assert [batch["input_ids"].shape[1] for batch in short] == [9, 10, 4]


def test_bad_texts(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    for name, data, message in (("a", b"", "is empty"), ("b", b"a\n\xff\n", "UTF-8")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            TextSequences(tmp_path / name, tokenizer, 10)
    with pytest.raises(DataError, match="cannot be read"):
        TextSequences(tmp_path / "c", tokenizer, 10)


# ------------------------------------------------------------------------------------- the outputs


@pytest.mark.parametrize(
    ("layers", "pooling", "names"),
    [
        (None, None, "embedding hidden_0 hidden_1 hidden_2 hidden_3 decoder summary "
                     "discriminator_logits"),
        (None, "cls", "embedding hidden_0 hidden_1 hidden_2 hidden_3 decoder summary"),
        ("-1", None, "hidden_3"),
        ("decoder, -2,0,embedding", "mean", "embedding hidden_0 hidden_2 decoder"),
        ("discriminator_logits,hidden_1", None, "hidden_1 discriminator_logits"),
    ],
)  # fmt: skip
def test_layers(layers, pooling, names):
    found = select_outputs(CONFIG, EVERYTHING, OutputSettings(layers, pooling))
    assert found == OutputSelection(tuple(names.split()), pooling)


@pytest.mark.parametrize(
    ("layers", "parts", "message"),
    [
        ("4", EVERYTHING, "'4' is no output of this model: embedding, hidden_0"),
        ("-5", EVERYTHING, "'-5' is no output"),
        ("last", EVERYTHING, "'last' is no output"),
        ("", EVERYTHING, "'' is no output"),
        ("summary", ModelParts(True, False, False), "'summary' is no output"),
        ("discriminator_logits", EVERYTHING, "no --pooling"),
    ],
)
def test_layers_that_there_are_not(layers, parts, message):
    with pytest.raises(ConfigError, match=message):
        select_outputs(CONFIG, parts, OutputSettings(layers, "max"))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling_leaves_padding_out(pooling):
    rng = np.random.default_rng(0)
    mask = np.array([[1] * 9, [1] * 4 + [0] * 5, [0] * 9])
    states = {"decoder": rng.normal(size=(3, 9, 5)).astype(np.float32)}
    states["summary"] = states["decoder"][:, 0]
    batch = ModelInputs(np.zeros((3, 9), int), None, mask)
    found = pool_outputs(states, batch, CONFIG, pooling)
    assert found["summary"] is states["summary"]
    reduce = {"cls": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.max(0)}
    for row, length in enumerate((9, 4)):
        expected = reduce[pooling](states["decoder"][row, :length])
        np.testing.assert_allclose(found["decoder"][row], expected, rtol=1e-5)
    assert found["decoder"].dtype == np.float32 and found["decoder"].shape == (3, 5)
    assert np.isfinite(found["decoder"]).all()
    hidden = {"hidden_2": rng.normal(size=(3, 5, 5)).astype(np.float32)}
    found = pool_outputs(hidden, batch, CONFIG, pooling)["hidden_2"]
    # [CLS], then windows of two: tokens 1-2, 3 (and padding), ...
    np.testing.assert_allclose(found[1], reduce[pooling](hidden["hidden_2"][1, :3]), rtol=1e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_lines(tmp_path, monkeypatch):
    """20,000 lines need the memory of 1,000; that of one batch."""
    monkeypatch.setattr(scratch, "_HELD_BYTES", 1 << 12)
    monkeypatch.setattr(text_files, "_READ_BYTES", 1 << 12)
    tokenizer = tiny_tokenizer(tmp_path)

    def peak(lines, pooling):
        (tmp_path / "in.txt").write_text("a b c d e\n" * lines)
        tracemalloc.start()
        try:
            sequences = TextSequences(tmp_path / "in.txt", tokenizer, 64)
            settings = OutputSettings(None, pooling)
            selection = select_outputs(CONFIG, ModelParts(False, False, False), settings)
            path = tmp_path / "out.npz"
            extract_to_file(_fake_extract, sequences, CONFIG, selection, 16, path)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for pooling in (None, "mean"):
        peak(500, pooling)
        small = peak(1000, pooling)
        assert peak(20000, pooling) < 1.3 * small
        with np.load(tmp_path / "out.npz") as found:
            assert len(found["hidden_3"]) == 20000
            assert ("input_ids" in found) == (pooling is None)
