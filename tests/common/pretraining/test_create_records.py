"""Text to records: pairing against a slow reference, atomicity, determinism, user errors."""

import itertools
import json
import os
import random

import numpy as np
import pytest

from corpus_cases import DeadlyTokenizer, random_documents, tiny_tokenizer, write_text
from funnel.features.classification import SegmentIds
from funnel.formats.tfrecord import read_examples
from funnel.pretraining import create_records as corpus
from funnel.pretraining.create_records import (
    CorpusConfig,
    RecordSet,
    create_all_records,
    create_records,
    read_documents,
    sample_pairs,
    task_files,
)
from funnel.tokenization.base import VocabularyFile
from funnel.utils.errors import ConfigError, DataError, FunnelError


@pytest.fixture
def tokenizer(tmp_path):
    return tiny_tokenizer(tmp_path)


def _config(folder, pattern="*.txt", **changes):
    return CorpusConfig(
        **{
            "input_glob": f"{folder}/text/{pattern}",
            "save_dir": f"{folder}/out",
            "seq_len": 24,
            "use_all_text": False,
        }
        | changes
    )


def _examples(shard):
    return [
        {name: values.tolist() for name, values in features.items()}
        for _, features in read_examples(shard.path)
    ]


# --------------------------------------------------------------- the rules, word by word and slowly


def _slow_examples(documents, tokenizer, seq_len, seed):
    """Expected records, computed with lists, loops and the global random generators."""
    np.random.seed(seed)
    random.seed(seed)
    documents = list(documents)
    np.random.shuffle(documents)
    tokens, flags, flag = [], [], False
    for document in documents:
        for sentence in document:
            ids = tokenizer.encode(sentence)
            tokens += ids
            flags += [flag] * len(ids)
            flag = not flag

    def is_end(place):
        """Whether a sentence ends before this position."""
        return place == len(tokens) or (place > 0 and flags[place - 1] != flags[place])

    n, t, i = len(tokens), seq_len - 3, 0
    found = []
    while i + t < n:
        e = i + t
        while not is_end(e):
            e += 1
        cuts = [place for place in range(i + 1, i + t) if is_end(place)]
        if not cuts or random.random() < 0.5:
            a = list(range(i, random.choice(cuts) if cuts else e))
            label, i = 0, a[-1] + 1
            length = max(1, t - len(a))
            first = random.randint(0, n - length)
            last = first + length
            while first > 0 and flags[first - 1] == flags[first]:
                first -= 1
            while last < n and flags[last - 1] == flags[last]:
                last += 1
            b = list(range(first, last))
        else:
            cut = random.choice(cuts)
            a, b, label, i = list(range(i, cut)), list(range(cut, e)), 1, e
        while len(a) + len(b) > t:
            if len(a) > len(b):
                a.pop()
            elif random.random() < 0.5:
                b.pop()
            else:
                b.pop(0)
        sides = [[tokens[place] for place in side] for side in (a, b)]
        found.append(_slow_example(*sides, label, tokenizer))
    return found


def _slow_example(a, b, label, tokenizer):
    cls, sep = tokenizer.special.cls_id, tokenizer.special.sep_id
    ids = [cls, *a, sep, *b, sep]
    special = tokenizer.convert_ids_to_tokens([cls, sep])
    words = [
        place
        for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids))
        if not token.startswith("##") and token not in special
    ]
    return {
        "boundary": [*words, len(ids)],
        "input": ids,
        "label": [label],
        "seg_id": [2, *[0] * len(a), 0, *[1] * len(b), 1],
    }


@pytest.mark.parametrize(
    ("seq_len", "documents", "sentences", "words"),
    [
        (24, 60, 6, 8),
        (5, 20, 4, 5),  # one token on either side
        (6, 20, 4, 5),
        (64, 40, 5, 3),  # many short sentences
        (16, 15, 3, 40),  # sentences longer than an example
        (12, 30, 1, 30),
        (40, 500, 1, 1),  # documents of one word
    ],
)
@pytest.mark.parametrize(("task", "pass_id"), [(0, 0), (1, 2)])
def test_records_follow_the_rules(
    tmp_path, tokenizer, seq_len, documents, sentences, words, task, pass_id
):
    texts = random_documents(seq_len + pass_id, documents, sentences, words)
    write_text(tmp_path / "text/a.txt", random_documents(9, 5, 3, 9))
    write_text(tmp_path / "text/b.txt", texts)
    files = {0: "[b]*", 1: "*"}[task]  # task 1 of 2 has the second file
    config = _config(tmp_path, files, seq_len=seq_len, pass_id=pass_id, num_task=task + 1)
    shard = create_records(config, task, tokenizer)
    expected = _slow_examples(texts, tokenizer, seq_len, 100 * task + pass_id)
    assert _examples(shard) == expected
    assert shard.num_example == len(expected) > 5


def test_the_shapes_of_an_example(tmp_path, tokenizer):
    """The format of the records, independent of the sampling of pairs."""
    write_text(tmp_path / "text/a.txt", random_documents(0, 300, 8, 8))
    shard = create_records(_config(tmp_path), 0, tokenizer)
    special = tokenizer.special
    for example in _examples(shard):
        ids, segments = example["input"], example["seg_id"]
        assert len(ids) == len(segments) == 24
        assert ids[0] == special.cls_id and segments[0] == 2
        middle = ids.index(special.sep_id)
        symbols = (special.cls_id, special.sep_id)
        assert [place for place, i in enumerate(ids) if i in symbols] == [0, middle, 23]
        assert 2 <= middle <= 21
        assert segments == [2] + [0] * middle + [1] * (23 - middle)
        words = example["boundary"]
        assert words == sorted(set(words)) and words[-1] == 24
        assert not {0, middle, 23} & set(words)


def test_labels_are_balanced(tmp_path, tokenizer):
    """If there is always a sentence end to split at, both labels have probability 0.5."""
    write_text(tmp_path / "text/a.txt", random_documents(0, 800, 20, 4))
    shard = create_records(_config(tmp_path, seq_len=40), 0, tokenizer)
    labels = [example["label"][0] for example in _examples(shard)]
    assert len(labels) > 1000
    assert 0.45 < np.mean(labels) < 0.55  # three standard deviations of a fair coin


def test_b_with_label_1_follows_a(tokenizer):
    ends = np.cumsum(np.random.default_rng(0).integers(1, 9, 3000))
    pairs = list(sample_pairs(ends, 40, random.Random(0)))
    following = [pair for pair in pairs if pair.label == 1]
    # Together they reach to the first sentence end from 37 tokens on; tokens beyond 37 are cut.
    assert all(0 <= pair.b_start - pair.a_end <= 8 for pair in following)
    assert sum(pair.b_start == pair.a_end for pair in following) > len(following) / 4
    assert all(pair.a_end - pair.a_start + pair.b_end - pair.b_start == 37 for pair in pairs)
    far = [pair for pair in pairs if pair.label == 0 and abs(pair.b_start - pair.a_end) > 500]
    assert len(far) > 0.8 * (len(pairs) - len(following))


def test_a_stretch_without_end_is_no_pair():
    for ends in ([], [5], [21]):
        assert list(sample_pairs(np.array(ends, np.int64), 24, random.Random(0))) == []
    assert len(list(sample_pairs(np.array([22]), 24, random.Random(0)))) == 1


# -------------------------------------------------------------------------- documents and sentences


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n \n\n", "\r\n"])
def test_the_last_document_needs_no_empty_line(tmp_path, end):
    path = write_text(tmp_path / "a.txt", [["a b", "c"], ["d ."]], end)
    assert list(read_documents(path)) == [["a b", "c"], ["d ."]]


def test_what_ends_a_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff\n\n a b \r\n c\u2028d\n \t \n\r\ne\n\n\n\nf".encode())
    assert list(read_documents(path)) == [["a b", "c\u2028d"], ["e"], ["f"]]
    path.write_bytes(b"")
    assert list(read_documents(path)) == []


def test_documents_do_not_cross_files(tmp_path, tokenizer):
    """The end of a file ends a document, so both documents are counted and shuffled."""
    one, two = random_documents(0, 1, 30, 8) + random_documents(1, 1, 30, 8)
    write_text(tmp_path / "text/a.txt", [one], end="")
    write_text(tmp_path / "text/b.txt", [two], end="")
    shard = create_records(_config(tmp_path), 0, tokenizer)
    assert shard.documents == 2
    assert _examples(shard) == _slow_examples([one, two], tokenizer, 24, 0)


def test_a_sentence_without_tokens_is_none(tmp_path, tokenizer):
    """A line of control characters is neither the end of a document nor a sentence."""
    documents = random_documents(0, 10, 6, 8)
    write_text(tmp_path / "text/a.txt", documents)
    plain = create_records(_config(tmp_path), 0, tokenizer)
    with_noise = [list(itertools.chain(*((s, "\x07") for s in d))) for d in documents]
    write_text(tmp_path / "text/a.txt", with_noise)
    noisy = create_records(_config(tmp_path, save_dir=f"{tmp_path}/noisy"), 0, tokenizer)
    assert _examples(noisy) == _examples(plain) and noisy.documents == plain.documents


def test_a_long_document_is_tokenized_in_parts(tmp_path, tokenizer, monkeypatch):
    documents = random_documents(0, 3, 60, 8)
    write_text(tmp_path / "text/a.txt", documents)
    monkeypatch.setattr(corpus, "_SENTENCES", 7)
    shard = create_records(_config(tmp_path), 0, tokenizer)
    assert _examples(shard) == _slow_examples(documents, tokenizer, 24, 0)


def test_short_documents_are_left_out_and_counted(tmp_path, tokenizer):
    documents = random_documents(3, 60, 4, 6)
    lengths = [sum(len(tokenizer.encode(s)) for s in document) for document in documents]
    kept = [d for d, length in zip(documents, lengths, strict=True) if length >= 12]
    assert 10 < len(kept) < 50 and 12 in lengths and 11 in lengths
    write_text(tmp_path / "text/a.txt", documents)
    shard = create_records(_config(tmp_path, min_doc_len=12), 0, tokenizer)
    assert (shard.documents, shard.left_out) == (len(kept), 60 - len(kept))
    assert _examples(shard) == _slow_examples(kept, tokenizer, 24, 0)


# ---------------------------------------------------------------------------- files and their bytes


def test_names_and_description(tmp_path, tokenizer):
    write_text(tmp_path / "text/a.txt", random_documents(0, 30, 6, 8))
    write_text(tmp_path / "text/b.txt", random_documents(1, 30, 6, 8))
    config = _config(tmp_path, split="dev", pass_id=3, num_task=2)
    shard = create_records(config, 1, tokenizer)
    data = "data.dev.pass-3.seq-24.uncased.tfrecord-00001-of-00002"
    meta = "meta.dev.pass-3.seq-24.uncased.json-00001-of-00002"
    assert sorted(os.listdir(tmp_path / "out")) == [data, meta]
    assert shard.path == tmp_path / "out" / data
    described = json.loads((tmp_path / "out" / meta).read_text())
    assert described["filenames"] == [data]
    assert described["num_example"] == shard.num_example
    assert described["tokenizer_sha256"] == tokenizer.fingerprint
    assert described["settings"]["seq_len"] == 24
    assert shard.num_example == len(_examples(shard)) > 0
    assert shard.text_bytes == (tmp_path / "text/b.txt").stat().st_size
    cased = RecordSet("train", 0, 512, False, 1)
    assert cased.data_name(0) == "data.train.pass-0.seq-512.cased.tfrecord-00000-of-00001"
    assert cased.meta_name(0) == "meta.train.pass-0.seq-512.cased.json-00000-of-00001"


def test_same_seed_same_bytes_and_another_pass_other_pairs(tmp_path, tokenizer):
    write_text(tmp_path / "text/a.txt", random_documents(0, 30, 6, 8))
    written = []
    for folder, pass_id in (("one", 0), ("two", 0), ("three", 1)):
        random.seed(len(written))
        np.random.seed(len(written))
        config = _config(tmp_path, save_dir=f"{tmp_path}/{folder}", pass_id=pass_id)
        written.append(create_records(config, 0, tokenizer).path.read_bytes())
    assert written[0] == written[1] != written[2]


def test_global_generators_are_left_alone(tmp_path, tokenizer):
    write_text(tmp_path / "text/a.txt", random_documents(0, 30, 6, 8))
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    create_records(_config(tmp_path), 0, tokenizer)
    assert (random.random(), np.random.random()) == expected


def test_tasks_share_out_the_files(tmp_path):
    for name in ("b", "a", "10", "9", "c/d"):
        write_text(tmp_path / f"text/{name}.txt", [["a"]])
    (tmp_path / "text/folder.txt").mkdir()
    pattern = f"{tmp_path}/text/*.txt"
    shares = [task_files(pattern, task, 3) for task in range(3)]
    names = [[os.path.basename(path) for path in share] for share in shares]
    assert names == [["10.txt", "b.txt"], ["9.txt"], ["a.txt"]]
    assert len(task_files(f"{tmp_path}/text/**/*.txt", 0, 1)) == 5


def test_several_processes_write_the_same_files(tmp_path, tokenizer):
    for number in range(4):
        write_text(tmp_path / f"text/{number}.txt", random_documents(number, 30, 6, 8))
    config = _config(tmp_path, num_task=3)
    shards = {shard.path.name for shard in create_all_records(config, range(3), tokenizer)}
    alone = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(alone) == 6 and shards < alone.keys()
    config = _config(tmp_path, num_task=3, save_dir=f"{tmp_path}/together")
    assert len(list(create_all_records(config, range(3), tokenizer, num_proc=2))) == 3
    assert {p.name: p.read_bytes() for p in (tmp_path / "together").iterdir()} == alone


def test_a_killed_process_is_one_line(tmp_path, tokenizer):
    for number in range(2):
        write_text(tmp_path / f"text/{number}.txt", random_documents(number, 9, 6, 8))
    deadly = DeadlyTokenizer(VocabularyFile.read(tokenizer.path, uncased=True))
    with pytest.raises(FunnelError, match="a process was killed"):
        list(create_all_records(_config(tmp_path, num_task=2), range(2), deadly, num_proc=2))


# ------------------------------------------------------------------------------------- user errors


@pytest.mark.parametrize(
    ("setting", "bound"), [("seq_len", 5), ("pass_id", 0), ("num_task", 1), ("min_doc_len", 0)]
)
def test_settings_out_of_range(tmp_path, setting, bound):
    _config(tmp_path, **{setting: bound})
    with pytest.raises(ConfigError, match=f"{setting} is {bound - 1}; it must be at least {bound}"):
        _config(tmp_path, **{setting: bound - 1})


def test_tasks_without_files(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"text/\*.txt: no such file"):
        create_records(_config(tmp_path), 0, tokenizer)
    write_text(tmp_path / "text/a.txt", random_documents(0, 30, 6, 8))
    for task in (2, -1):
        with pytest.raises(ConfigError, match=f"task {task}: of 2 tasks, it must be 0 to 1"):
            create_records(_config(tmp_path, num_task=2), task, tokenizer)
    with pytest.raises(ConfigError, match="task 1 of 2 has no file, as only 1 match"):
        list(create_all_records(_config(tmp_path, num_task=2), range(2), tokenizer))
    assert not (tmp_path / "out").exists()  # found before the first task started


def test_text_that_cannot_be_used(tmp_path, tokenizer):
    path = write_text(tmp_path / "text/a.txt", [["a b c"], ["a", "b"]])
    with pytest.raises(DataError, match="hold 5 tokens, too few for one example of 24"):
        create_records(_config(tmp_path), 0, tokenizer)
    path.write_bytes(b"a\nb\xff\n")
    with pytest.raises(DataError, match="a.txt, line 2: not UTF-8"):
        create_records(_config(tmp_path), 0, tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_what_was_complete(tmp_path, tokenizer, monkeypatch):
    write_text(tmp_path / "text/a.txt", random_documents(0, 30, 6, 8))
    create_records(_config(tmp_path), 0, tokenizer)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_text(tmp_path / "text/a.txt", random_documents(1, 60, 6, 8))
    calls = itertools.count()

    def full_disk(features, encode=corpus.encode_example):
        if next(calls) == 5:
            raise OSError(28, "No space left on device")
        return encode(features)

    with monkeypatch.context() as patch, pytest.raises(FunnelError, match="cannot be written"):
        patch.setattr(corpus, "encode_example", full_disk)
        create_records(_config(tmp_path), 0, tokenizer)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_no_description_of_other_records(tmp_path, tokenizer, monkeypatch):
    """A kill between the two files leaves records without a description, never a wrong one."""
    write_text(tmp_path / "text/a.txt", random_documents(0, 30, 6, 8))
    old = create_records(_config(tmp_path), 0, tokenizer).path.read_bytes()
    write_text(tmp_path / "text/a.txt", random_documents(1, 60, 6, 8))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(corpus, "atomic_write_json", killed)
        create_records(_config(tmp_path), 0, tokenizer)
    (left,) = (tmp_path / "out").iterdir()
    assert left.name.startswith("data.") and left.read_bytes() != old


def test_other_segment_ids(tmp_path, tokenizer):
    write_text(tmp_path / "text/a.txt", random_documents(0, 30, 6, 8))
    config = _config(tmp_path, segments=SegmentIds(cls=7, a=8, b=9))
    for example in _examples(create_records(config, 0, tokenizer)):
        middle = example["input"].index(tokenizer.special.sep_id)
        assert example["seg_id"] == [7] + [8] * middle + [9] * (23 - middle)
