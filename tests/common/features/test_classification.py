"""Sequences, segments, truncation, padding, and a cache that never gives the wrong arrays."""

import json
import logging

import numpy as np
import pytest

from funnel.features.classification import SegmentIds, encode_examples, load_or_build, pad_batch
from funnel.tasks import Example, get_task
from funnel.utils.errors import ConfigError, FunnelError
from task_files import RTE_HEADER, LetterTokenizer, rte_rows, table, write

CLS, SEP = 1, 2
A, B, C, D = map(ord, "abcd")


def encode(*examples, max_length=16, **settings):
    return encode_examples(examples, LetterTokenizer(), max_length, **settings)


def rows(features):
    return [tuple(part.tolist() for part in features.row(i)) for i in range(len(features))]


def test_single_and_pair():
    features = encode(Example("ab", None, 0), Example("a", "bc", 1))
    assert rows(features) == [
        ([CLS, A, B, SEP], [2, 0, 0, 0]),
        ([CLS, A, SEP, B, C, SEP], [2, 0, 0, 1, 1, 1]),
    ]
    assert features.lengths.tolist() == [4, 6]
    assert features.labels.tolist() == [0, 1]
    dtypes = (features.input_ids, features.segment_ids, features.offsets, features.labels)
    assert [array.dtype for array in dtypes] == [np.int32, np.int8, np.int64, np.int64]


def test_empty_title_and_empty_text():
    assert rows(encode(Example("", "ab"), Example("a", ""), Example(""))) == [
        ([CLS, SEP, A, B, SEP], [2, 0, 1, 1, 1]),
        ([CLS, A, SEP, SEP], [2, 0, 0, 1]),
        ([CLS, SEP], [2, 0]),
    ]


def test_other_segment_ids():
    features = encode(Example("a", "b"), segments=SegmentIds(cls=5, a=6, b=7))
    assert features.row(0)[1].tolist() == [5, 6, 6, 7, 7]


def test_single_keeps_its_beginning():
    assert rows(encode(Example("abcd"), max_length=4)) == [([CLS, A, B, SEP], [2, 0, 0, 0])]


@pytest.mark.parametrize(
    "text_a, text_b, kept",
    [("aaaa", "bb", "aabb"), ("aaa", "bbb", "aabb"), ("aaaa", "b", "aaab"), ("a", "bbbbb", "abbb")],
)
def test_pair_loses_tokens_of_the_longer_side(text_a, text_b, kept):
    ids, segments = encode(Example(text_a, text_b), max_length=7).row(0)
    assert [chr(i) for i in ids if i > SEP] == list(kept)
    assert segments.tolist() == [2] + [0] * (kept.count("a") + 1) + [1] * (kept.count("b") + 1)


def test_b_loses_on_a_tie():
    assert rows(encode(Example("aa", "bb"), max_length=6))[0][0] == [CLS, A, A, SEP, B, SEP]


def test_labels():
    assert encode(Example("a", None, 1.0)).labels.dtype == np.float32
    assert encode(Example("a"), Example("b", None, 1)).labels is None


def test_no_examples():
    assert len(encode()) == 0


def test_no_room():
    with pytest.raises(ConfigError, match="max_length 2"):
        encode(Example("a", "b"), max_length=2)


def test_chunks_are_joined_without_a_seam():
    rng = np.random.default_rng(0)
    examples = [
        Example("a" * rng.integers(0, 9), "b" * rng.integers(0, 9) if i % 3 else None, i % 2)
        for i in range(9000)
    ]
    features = encode(*examples, max_length=12)
    assert len(features) == 9000
    for i in (0, 1, 4095, 4096, 8191, 8192, 8999):
        assert rows(encode(examples[i], max_length=12))[0] == tuple(
            part.tolist() for part in features.row(i)
        )
    assert (features.input_ids[features.offsets[:-1]] == CLS).all()
    assert (features.input_ids[features.offsets[1:] - 1] == SEP).all()


def test_row_out_of_range():
    features = encode(Example("a"))
    for i in (-1, 1):
        with pytest.raises(IndexError):
            features.row(i)


class TestPadBatch:
    FEATURES = encode(Example("ab", None, 0), Example("a", None, 1), Example("abcd", None, 1))

    def test_order_and_padding(self):
        batch = pad_batch(self.FEATURES, [1, 0], 5, pad_id=9, segment_pad=3)
        assert batch["input_ids"].tolist() == [[CLS, A, SEP, 9, 9], [CLS, A, B, SEP, 9]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
        assert batch["token_type_ids"].tolist() == [[2, 0, 0, 3, 3], [2, 0, 0, 0, 3]]
        assert batch["labels"].tolist() == [1, 0]
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}

    def test_without_labels(self):
        assert "labels" not in pad_batch(encode(Example("a")), [0], 3, 0)

    def test_too_long(self):
        with pytest.raises(ValueError, match="6 tokens, more than the length 5"):
            pad_batch(self.FEATURES, np.array([0, 2]), 5, 0)

    def test_nothing(self):
        assert pad_batch(self.FEATURES, [], 4, 0)["input_ids"].shape == (0, 4)


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "data/dev.tsv", table(*rte_rows(20), header=RTE_HEADER))
    return tmp_path / "data"


class TestCache:
    ARRAYS, KEY = "rte.dev.len-32.npz", "rte.dev.len-32.json"

    def build(self, tmp_path, data, *, tokenizer=None, task="rte", max_length=32, **settings):
        """Return the features and how many texts were tokenized for them."""
        tokenizer = tokenizer or LetterTokenizer()
        cache = tmp_path / "cache"
        resolved = get_task(task).resolve_labels(data)
        features = load_or_build(cache, resolved, "dev", data, tokenizer, max_length, **settings)
        return features, tokenizer.encoded

    def test_second_call_reads_the_same_arrays(self, tmp_path, data):
        first, worked = self.build(tmp_path, data)
        second, again = self.build(tmp_path, data)
        assert (worked, again) == (40, 0)
        assert rows(first) == rows(second)
        assert first.labels.tolist() == second.labels.tolist()
        assert second.labels.dtype == first.labels.dtype
        assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [self.KEY, self.ARRAYS]

    def test_unlabelled_split(self, tmp_path):
        write(tmp_path / "test.tsv", table("0 a b", header="index sentence1 sentence2"))
        for _ in range(2):
            features = load_or_build(
                tmp_path, get_task("rte"), "test", tmp_path, LetterTokenizer(), 8
            )
            assert features.labels is None

    @pytest.mark.parametrize("cache", [None, ""])
    def test_no_cache(self, tmp_path, data, cache):
        load_or_build(cache, get_task("rte"), "dev", data, LetterTokenizer(), 32)
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    def test_overwrite(self, tmp_path, data):
        self.build(tmp_path, data)
        assert self.build(tmp_path, data, overwrite=True)[1] == 40

    @pytest.mark.parametrize(
        "change",
        [{"tokenizer": LetterTokenizer("other")}, {"segments": SegmentIds(cls=0)}],
        ids=["tokenizer", "segments"],
    )
    def test_other_inputs_rebuild(self, tmp_path, data, change):
        self.build(tmp_path, data)
        assert self.build(tmp_path, data, **change)[1] > 0

    def test_other_length_is_another_file(self, tmp_path, data):
        self.build(tmp_path, data)
        assert self.build(tmp_path, data, max_length=8)[1] == 40
        assert self.build(tmp_path, data)[1] == 0

    def test_changed_data_of_the_same_size_rebuilds(self, tmp_path, data, caplog):
        caplog.set_level(logging.INFO)
        self.build(tmp_path, data)
        path = data / "dev.tsv"
        write(path, path.read_bytes().replace(b"a7\t", b"z7\t"))
        features, worked = self.build(tmp_path, data)
        assert worked == 40
        assert chr(features.row(7)[0][1]) == "z"
        assert "a different data_sha256" in caplog.text

    def test_moved_data_does_not_rebuild(self, tmp_path, data):
        self.build(tmp_path, data)
        assert self.build(tmp_path, data.rename(tmp_path / "elsewhere"))[1] == 0

    def test_new_labels_of_a_custom_task_rebuild(self, tmp_path):
        write(tmp_path / "dev.tsv", "text\tlabel\nx\tb\n")
        write(tmp_path / "train.tsv", "text\tlabel\nx\tb\ny\tc\n")
        assert self.build(tmp_path, tmp_path, task="tsv")[0].labels.tolist() == [0]
        write(tmp_path / "train.tsv", "text\tlabel\nx\ta\ny\tb\n")
        assert self.build(tmp_path, tmp_path, task="tsv")[0].labels.tolist() == [1]

    @pytest.mark.parametrize("name", [ARRAYS, KEY])
    @pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "noise"])
    def test_corrupt_files_are_rebuilt_with_a_warning(self, tmp_path, data, name, damage, caplog):
        expected = rows(self.build(tmp_path, data)[0])
        path = tmp_path / "cache" / name
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            del content[len(content) // 2 :]
        elif damage == "emptied":
            content.clear()
        elif damage == "flipped":
            place = content.index(b"a\0\0\0") if name == self.ARRAYS else content.index(b'"')
            content[place] ^= 0xFF
        else:
            content[:] = b"\x93NUMPY" + bytes(range(256))
        path.write_bytes(content)
        features, worked = self.build(tmp_path, data)
        assert worked == 40
        assert rows(features) == expected
        assert "corrupt cache is rebuilt" in caplog.text
        assert self.build(tmp_path, data)[1] == 0

    def test_arrays_of_another_key_are_not_taken(self, tmp_path, data, caplog):
        self.build(tmp_path, data)
        arrays = (tmp_path / "cache" / self.ARRAYS).read_bytes()
        write(data / "dev.tsv", table(*rte_rows(20, start=50), header=RTE_HEADER))
        self.build(tmp_path, data)
        (tmp_path / "cache" / self.ARRAYS).write_bytes(arrays)
        features, worked = self.build(tmp_path, data)
        assert worked == 40
        assert "does not belong to" in caplog.text
        assert chr(features.row(0)[0][2]) == "5"

    def test_arrays_that_do_not_fit_together(self, tmp_path, data, caplog):
        self.build(tmp_path, data)
        path = tmp_path / "cache" / self.ARRAYS
        with np.load(path) as members:
            changed = dict(members) | {"offsets": members["offsets"][:-1]}
        np.savez(path, **changed)
        assert self.build(tmp_path, data)[1] == 40
        assert "arrays are inconsistent" in caplog.text

    def test_pickles_are_never_loaded(self, tmp_path, data, caplog):
        self.build(tmp_path, data)
        path = tmp_path / "cache" / self.ARRAYS
        with np.load(path) as members:
            changed = dict(members) | {"input_ids": np.array([{}], dtype=object)}
        np.savez(path, **changed)
        assert self.build(tmp_path, data)[1] == 40
        assert "allow_pickle" in caplog.text

    def test_key_file_says_what_the_arrays_are_made_of(self, tmp_path, data):
        self.build(tmp_path, data)
        key = json.loads((tmp_path / "cache" / self.KEY).read_text())
        assert (key["task"], key["split"], key["max_length"]) == ("rte", "dev", 32)
        assert len(key["data_sha256"]) == len(key["tokenizer_sha256"]) == 64

    def test_cache_in_the_place_of_a_file(self, tmp_path, data):
        write(tmp_path / "cache", "in the way")
        with pytest.raises(FunnelError, match="cannot be written"):
            self.build(tmp_path, data)

    def test_folders(self, tmp_path):
        for name in ("neg/0.txt", "pos/0.txt"):
            write(tmp_path / "test" / name, name)
        first = self.build(tmp_path, tmp_path, task="imdb")
        assert (first[1], self.build(tmp_path, tmp_path, task="imdb")[1]) == (2, 0)
        write(tmp_path / "test/pos/0.txt", "POS/0.txt")
        assert self.build(tmp_path, tmp_path, task="imdb")[1] == 2
