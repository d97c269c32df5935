"""The demo's data: separate splits, no label in the text, reproducible bytes."""

import json
from collections import Counter

import pytest

from funnel.tasks import CustomTaskConfig, get_task
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import DataError
from funnel_data.cli import make_demo_data as program
from funnel_data.corpora import python_docs
from funnel_data.corpora.python_docs import Docstring, TaskConfig

pytestmark = pytest.mark.slow

PARTS = ("scipy/stats", "scipy/signal", "sklearn/metrics", "numpy/ma")
SHORT = TaskConfig(min_words=5)


def _sentence(seed):
    return f"Text number {seed} in which each of the own words has a place. And one more follows."


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder of packages: four parts of 40 files, two docstrings each, and an unlabelled file."""
    root = tmp_path_factory.mktemp("library")
    for part in PARTS:
        (root / part).mkdir(parents=True)
        for n in range(40):
            name = part.replace("/", "x")
            first, second = _sentence(f"{name}{n}"), _sentence(f"{name}{n}f")
            body = f'"""{first}"""\ndef f():\n    """{second}"""\n'
            (root / part / f"m{n}.py").write_text(body)
        (root / part / "broken.py").write_text("def {{ template }}\n")
        (root / part / "tests").mkdir()
        (root / part / "tests" / "test_m.py").write_text(f'"""{_sentence("test")}"""\n')
    (root / "scipy" / "version.py").write_text(f'"""{_sentence("version")}"""\n')
    return root


@pytest.fixture(scope="module")
def docstrings(library):
    return python_docs.read_packages([library])[0]


@pytest.fixture(scope="module")
def splits(docstrings):
    return python_docs.make_splits(docstrings, SHORT)


def test_every_documented_file_is_read(docstrings, library):
    assert len(docstrings) == 2 * 40 * len(PARTS) + 1
    assert {doc.label for doc in docstrings} == {p.replace("/", ".") for p in PARTS} | {"scipy"}
    assert not any("tests" in doc.path for doc in docstrings)
    assert set(python_docs.read_packages([library])[1]) == {"scipy", "sklearn", "numpy"}


def test_shares_and_classes(splits):
    sizes = {split: len(rows) for split, rows in splits.items()}
    assert sum(sizes.values()) == 2 * 40 * len(PARTS)
    assert 0.45 < sizes["train"] / sum(sizes.values()) < 0.75
    classes = {split: {label for label, _ in rows} for split, rows in splits.items()}
    assert classes["train"] == classes["dev"] == classes["test"]
    assert len(classes["train"]) == len(PARTS)


def test_no_text_occurs_twice(splits):
    texts = Counter(text.lower() for rows in splits.values() for _, text in rows)
    assert texts.most_common(1)[0][1] == 1


def test_a_file_belongs_to_one_split(docstrings, splits):
    split_by_text = {text: split for split, rows in splits.items() for _, text in rows}
    found = {}
    for doc in docstrings:
        text = python_docs.mask_names(" ".join(doc.paragraphs), doc.path)
        if text in split_by_text:
            found.setdefault(doc.path, set()).add(split_by_text[text])
    assert len(found) == 40 * len(PARTS)
    assert all(len(splits) == 1 for splits in found.values())


def test_sizes_and_texts_per_file_are_bounded(docstrings):
    config = TaskConfig(train=30, dev=10, test=12, min_words=5, max_words=7, max_per_file=1)
    splits = python_docs.make_splits(docstrings, config)
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 30,
        "dev": 10,
        "test": 12,
    }
    assert {len(text.split()) for rows in splits.values() for _, text in rows} == {7}


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("An SVD; svd, not svds", "scipy/linalg/_svd.py", "An it; it, not svds"),
        ("The scipy.stats module: np", "scipy/stats/x.py", "The it.it module: it"),
        ("A base-class value", "sklearn/linear_model/_base.py", "A it-class value"),
        ("Nothing here", "sympy/core/__init__.py", "Nothing here"),
    ],
)
def test_names_are_masked(text, path, expected):
    assert python_docs.mask_names(text, path) == expected


def test_prose_leaves_code_and_short_lines_out():
    doc = """Return something that is worth a whole sentence of prose.

    >>> here(is_code) # and enough words in it to count as a paragraph otherwise

    Too short.

    Two lines that
      become one line of a paragraph with plain blanks."""
    assert list(python_docs.prose_paragraphs(doc)) == [
        "Return something that is worth a whole sentence of prose.",
        "Two lines that become one line of a paragraph with plain blanks.",
    ]


def test_a_text_of_two_files_is_left_out():
    docs = [
        Docstring("scipy/stats/a.py", ("the same text of five words",)),
        Docstring("scipy/signal/b.py", ("the same text of five words",)),
        Docstring("scipy/stats/c.py", ("another text of five words",)),
        Docstring("scipy/io/d.py", ("a text outside the classes",)),
    ]
    rows = list(python_docs.labelled_texts(docs, SHORT))
    assert rows == [(docs[2], "another text of five words")]


def test_order_swaps_neighbours_in_every_other_text(splits):
    order = python_docs.make_order_task(splits, 0.25)
    for split, rows in splits.items():
        assert [label for label, _ in order[split][:4]] == ["intact", "swapped"] * 2
        for n, ((_, text), (_, changed)) in enumerate(zip(rows, order[split], strict=True)):
            words, others = text.split(), changed.split()
            assert sorted(words) == sorted(others)
            moved = [i for i, (a, b) in enumerate(zip(words, others, strict=True)) if a != b]
            assert bool(moved) == bool(n % 2)
            for i in moved:
                assert words[i] == others[i ^ 1]
    assert python_docs.swap_words("a b", 0.25) == "b a"
    assert python_docs.swap_words("a", 0.25) == "a"


def test_corpus_keeps_held_out_files_out(docstrings):
    lines = list(python_docs.corpus_lines(docstrings))
    held_out = [doc for doc in docstrings if doc.held_out]
    assert 40 < len(held_out) < 200
    assert not {doc.paragraphs[0].split(". ")[0] + "." for doc in held_out} & set(lines)
    assert lines[1:3] == ["And one more follows.", ""]
    assert lines.count("") == len(docstrings) - len(held_out)


def test_files_are_readable_by_the_programs_and_reproducible(library, tmp_path):
    counts = {}
    for run in ("one", "two"):
        counts = python_docs.make_demo_data(tmp_path / run, [library], SHORT, 300)
    for name in ("corpus.txt", "vocab.txt", "topic/train.tsv", "order/test.tsv", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    task = get_task("tsv", custom=CustomTaskConfig()).resolve_labels(tmp_path / "one" / "topic")
    assert task.labels == ("numpy.ma", "scipy.signal", "scipy.stats", "sklearn.metrics")
    for split in ("train", "dev", "test"):
        assert len(task.load(tmp_path / "one" / "topic", split)) == counts[split]
    order = get_task("tsv", custom=CustomTaskConfig()).resolve_labels(tmp_path / "one" / "order")
    assert order.labels == ("intact", "swapped")
    assert len(order.load(tmp_path / "one" / "order", "train")) == counts["order_train"]
    tokenizer = get_tokenizer("word_piece", tmp_path / "one" / "vocab.txt")
    assert tokenizer.special.unk_id not in tokenizer.encode("each number has an own word")
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert set(manifest["packages"]) == {"numpy", "scipy", "sklearn"}
    assert manifest["rows"] == counts


def test_what_is_missing_is_said(library, tmp_path, capsys):
    output = tmp_path / "out"
    with pytest.raises(DataError, match="too few docstrings"):  # none has 40 words
        program.main([f"--output_dir={output}", f"--library={library}", "--task_only"])
    arguments = [f"--output_dir={output}", f"--library={library}", "--min_words=5", "--task_only"]
    program.main([*arguments, "--train=20"])
    shown = capsys.readouterr().out
    assert "20 train" in shown
    assert "not installed, and left out: torch, sympy, networkx, matplotlib" in shown
    assert not (output / "corpus.txt").exists()


def test_a_library_without_docstrings_is_an_error(tmp_path):
    (tmp_path / "os.py").write_text("x = 1\n")
    with pytest.raises(DataError, match="no docstrings"):
        python_docs.make_demo_data(tmp_path / "out", [tmp_path])
    assert not (tmp_path / "out").exists()
