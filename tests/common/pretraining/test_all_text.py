"""Text that pairing cuts off is in further examples; shares are reported; memory is bounded."""

import collections
import random
import tracemalloc

import numpy as np
import pytest

import corpus_cases
from corpus_cases import random_documents, tiny_tokenizer, write_text
from funnel.config.pretraining import CorpusConfig
from funnel.formats.tfrecord import read_examples
from funnel.pretraining.create_records import create_records
from funnel.pretraining.pairs import Pair, sample_pairs, sample_unused_pairs
from funnel.tokenization import get_tokenizer
from funnel.utils import scratch, text_files
from funnel.utils.errors import FunnelError


def _inputs(shard):
    return [features["input"].tolist() for _, features in read_examples(shard.path)]


def _features(shard):
    return [
        {name: values.tolist() for name, values in features.items()}
        for _, features in read_examples(shard.path)
    ]


def _config(folder, **changes):
    usual = {"input_glob": f"{folder}/text/*.txt", "save_dir": f"{folder}/out", "seq_len": 24}
    return CorpusConfig(**usual | changes)


def _numbered_text(folder, line_lengths, per_document=5):
    """Write lines of words that occur once each; return the tokenizer and the number of words."""
    words = iter(range(sum(line_lengths)))
    lines = [" ".join(f"w{next(words)}" for _ in range(length)) for length in line_lengths]
    groups = [lines[i : i + per_document] for i in range(0, len(lines), per_document)]
    write_text(folder / "text/a.txt", groups)
    entries = [*corpus_cases.SPECIAL, *(f"w{i}" for i in range(sum(line_lengths)))]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    return get_tokenizer("word_piece", folder / "vocab.txt"), sum(line_lengths)


LINES = {
    "sentences": lambda rng: [rng.randint(1, 15) for _ in range(200)],
    "paragraphs": lambda rng: [rng.randint(50, 400) for _ in range(20)],
    "mixed": lambda rng: [rng.choice([3, 8, 21, 22, 60, 500]) for _ in range(60)],
    "one line": lambda rng: [2000],
    "one example": lambda rng: [22],
}


@pytest.mark.slow
@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("seq_len", [24, 6, 5])
def test_every_token_is_in_an_example(tmp_path, lines, seq_len):
    tokenizer, count = _numbered_text(tmp_path, LINES[lines](random.Random(0)))
    shard = create_records(_config(tmp_path, seq_len=seq_len), 0, tokenizer)
    inputs = _inputs(shard)
    found = {token for row in inputs for token in row} - tokenizer.special.functional
    assert len(found) == count == shard.total_tokens
    assert shard.unused == shard.unknown == 0 and shard.num_example == len(inputs)
    assert all(len(row) == seq_len for row in inputs)


def test_records_of_the_original_come_first(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    write_text(tmp_path / "text/a.txt", random_documents(0, 60, 6, 30))
    everything = create_records(_config(tmp_path), 0, tokenizer)
    all_examples = _features(everything)
    plain = create_records(_config(tmp_path, use_all_text=False), 0, tokenizer)
    expected = _features(plain)
    assert plain.repeated == 0 < everything.repeated
    assert all_examples[: -everything.repeated] == expected


def test_the_share_without_further_examples(tmp_path):
    tokenizer, count = _numbered_text(tmp_path, LINES["mixed"](random.Random(1)))
    shard = create_records(_config(tmp_path, use_all_text=False), 0, tokenizer)
    found = {token for row in _inputs(shard) for token in row} - tokenizer.special.functional
    assert shard.unused == count - len(found) > count / 3


def test_further_examples_are_few_where_sentences_are_short(tmp_path):
    """A cut sentence is repeated completely, not the example around it."""
    rng = random.Random(0)
    tokenizer, _ = _numbered_text(tmp_path, [rng.randint(3, 9) for _ in range(800)])
    shard = create_records(_config(tmp_path, seq_len=128), 0, tokenizer)
    assert shard.repeated < 0.25 * shard.num_example


def test_a_repeated_sentence_is_complete(tmp_path):
    tokenizer, _ = _numbered_text(tmp_path, [7] * 300)
    shard = create_records(_config(tmp_path, seq_len=128), 0, tokenizer)
    special = tokenizer.special.functional
    repeated = [i for row in _inputs(shard)[-shard.repeated :] for i in row if i not in special]
    lines = collections.Counter((token - len(corpus_cases.SPECIAL)) // 7 for token in repeated)
    # All but the sentence at the end, where the last window is filled up.
    assert sum(count % 7 != 0 for count in lines.values()) <= 1


def test_pairs_of_unused_text_have_both_labels():
    ends = np.cumsum(np.random.default_rng(0).integers(1, 9, 3000))
    ends = np.append(ends[ends < 37 * 300], 37 * 300)
    pairs = list(sample_unused_pairs(ends, 40, random.Random(0)))
    assert len(pairs) == 300
    assert 0.4 < np.mean([pair.label for pair in pairs]) < 0.6
    for pair in pairs:
        assert pair.a_end - pair.a_start + pair.b_end - pair.b_start == 37
        assert (pair.b_start == pair.a_end) == (pair.label == 1)
        assert pair.label == 1 or abs(pair.b_start - pair.a_end) > 100 * 37
        # A window that exchanges its second segment with an earlier one is split where that is.
        assert pair.a_end in ends or (pair.label == 0 and pair.b_start < pair.a_start)
    covered = np.zeros(37 * 300, int)
    for pair in pairs:
        covered[pair.a_start : pair.a_end] += 1
        covered[pair.b_start : pair.b_end] += 1
    assert (covered == 1).all()


def test_below_one_half_the_end_of_b_is_cut():
    """The coin as the original threw it: records with equal seeds are equal."""

    class Coin(random.Random):
        def __init__(self, *throws):
            super().__init__(0)
            self.throws = iter(throws)

        def random(self):
            return next(self.throws)

        def choice(self, values):
            return values[0]

    # One cut after 2 tokens. The first throw takes what follows as B; 4 of 7 tokens remain.
    ends, rest = np.array([2, 7, 20]), (0.0, 0.0, 0.0, 0.0)
    (first, *_) = sample_pairs(ends, 7, Coin(0.9, 0.49, 0.49, 0.49, *rest))
    assert first == Pair(0, 2, 2, 4, 1)
    (first, *_) = sample_pairs(ends, 7, Coin(0.9, 0.5, 0.51, 0.49, *rest))
    assert first == Pair(0, 2, 4, 6, 1)


def test_unknown_tokens_are_counted(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    write_text(tmp_path / "text/a.txt", [["a b c d Ж", "q a b ."] * 20])
    shard = create_records(_config(tmp_path), 0, tokenizer)
    assert (shard.unknown, shard.total_tokens) == (40, 180)


def test_documents_left_out_are_unused(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    write_text(tmp_path / "text/a.txt", [["a b c"], ["a b c d e f g h"] * 9, ["d"]])
    shard = create_records(_config(tmp_path, min_doc_len=5), 0, tokenizer)
    assert (shard.documents, shard.left_out, shard.tokens) == (1, 2, 72)
    assert (shard.unused, shard.total_tokens) == (4, 76)


def test_temporary_files_give_the_same_bytes(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer(tmp_path)
    write_text(tmp_path / "text/a.txt", random_documents(0, 60, 6, 30))
    in_memory = create_records(_config(tmp_path), 0, tokenizer).path.read_bytes()
    monkeypatch.setattr(scratch, "_HELD_BYTES", 64)
    config = _config(tmp_path, save_dir=f"{tmp_path}/other")
    shard = create_records(config, 0, tokenizer)
    assert shard.path.read_bytes() == in_memory
    assert len(list((tmp_path / "other").iterdir())) == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    """Python's and NumPy's memory for 8 times the text, one document without an empty line."""
    monkeypatch.setattr(scratch, "_HELD_BYTES", 1 << 14)
    monkeypatch.setattr(text_files, "_READ_BYTES", 1 << 12)
    monkeypatch.setattr("funnel.pretraining.create_records._SENTENCES", 64)
    monkeypatch.setattr("funnel.pretraining.token_stream._BLOCK", 4096)
    tokenizer = tiny_tokenizer(tmp_path)

    def peak(lines):
        (document,) = random_documents(0, 1, 1, 1)
        document = [" ".join(["a", "bxy", "cy", "."] * 5)] * lines
        write_text(tmp_path / "text/a.txt", [document])
        tracemalloc.start()
        try:
            create_records(_config(tmp_path, seq_len=128), 0, tokenizer, show_progress=False)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)  # what is imported on first use
    small = peak(2000)
    assert peak(16000) < 1.3 * small


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer(tmp_path)
    write_text(tmp_path / "text/a.txt", random_documents(0, 60, 6, 30))
    monkeypatch.setattr(scratch, "_HELD_BYTES", 64)

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", full)
    with pytest.raises(FunnelError, match="out: cannot be written: No space left"):
        create_records(_config(tmp_path), 0, tokenizer)
