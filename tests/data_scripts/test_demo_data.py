"""The demo's data: separate splits, no label in the text, reproducible bytes."""

import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from funnel.tasks import CustomTaskConfig, get_task
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import DataError
from funnel_data.corpora import python_docs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sources():
    return python_docs.read_library(Path(sysconfig.get_paths()["stdlib"]))


@pytest.fixture(scope="module")
def splits(sources):
    return python_docs.make_splits(sources)[0]


def test_shares_and_classes(splits):
    sizes = {split: len(rows) for split, rows in splits.items()}
    total = sum(sizes.values())
    assert total > 4000
    assert 0.07 <= sizes["dev"] / total <= 0.10
    assert 0.11 <= sizes["test"] / total <= 0.15
    classes = {split: Counter(label for label, _ in rows) for split, rows in splits.items()}
    assert len(classes["train"]) >= 5
    assert set(classes["train"]) == set(classes["dev"]) == set(classes["test"])
    assert classes["test"].most_common(1)[0][1] / sizes["test"] < 0.4


def test_no_text_occurs_twice(splits):
    texts = Counter(text.lower() for rows in splits.values() for _, text in rows)
    assert texts.most_common(1)[0][1] == 1


def test_a_file_belongs_to_one_split(sources, splits):
    split_by_path = {text: split for split, rows in splits.items() for _, text in rows}
    texts = {s.path: {python_docs.blank_own_name(p, s.path) for p in s.paragraphs} for s in sources}
    files = Counter(text.lower() for own in texts.values() for text in own)
    for path, own in texts.items():
        # A paragraph that several files share was kept for one of them.
        found = {split_by_path[t] for t in own if t in split_by_path and files[t.lower()] == 1}
        assert len(found) <= 1, path


def test_files_of_a_label_are_not_divided_and_fit_the_shares():
    rows = [(f"file{n}.py", f"text {n} {i}") for n in range(40) for i in range(1 + n % 7)]
    rows += [("large.py", f"text {i}") for i in range(60)]
    split_by_path = python_docs.assign_files(rows)
    sizes = Counter(split_by_path[path] for path, _ in rows)
    assert split_by_path["large.py"] == "train"
    assert sizes["dev"] <= 0.10 * len(rows) and sizes["test"] <= 0.15 * len(rows)
    assert min(sizes["dev"], sizes["test"]) > 0.05 * len(rows)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("An SMTPlib; smtplib, not smtplibs", "smtplib.py", "An it; it, not smtplibs"),
        ("The tkinter.font module: a Font", "tkinter/font.py", "The it.it module: a it"),
        ("A thread-local value", "_threading_local.py", "A thread-it value"),
        ("Nothing here", "re/__init__.py", "Nothing here"),
    ],
)
def test_own_name_is_blanked(text, path, expected):
    assert python_docs.blank_own_name(text, path) == expected


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


def test_ambiguous_texts_are_left_out(monkeypatch):
    monkeypatch.setattr(python_docs, "MIN_PER_PART", 1)
    rows = python_docs.labelled_paragraphs(
        [
            python_docs.Source("os.py", ("the same text", "only files")),
            python_docs.Source("json/decoder.py", ("The same text", "only text")),
            python_docs.Source("antigravity.py", ("no part of the library",)),
        ]
    )
    assert rows == {"files": [("os.py", "only files")], "text": [("json/decoder.py", "only text")]}


def test_corpus_keeps_held_out_files_out():
    sources = [
        python_docs.Source("a.py", ("First one. Then another.", "Third")),
        python_docs.Source("b.py", ("Held out",)),
    ]
    lines = list(python_docs.corpus_lines(sources, {"b.py"}))
    assert lines[:4] == ["First one.", "Then another.", "Third", ""]
    assert "Held out" not in lines and len(lines) > 1000
    assert not any(line != line.strip() or "\n" in line for line in lines)


def test_files_are_readable_by_the_programs_and_reproducible(tmp_path):
    library = tmp_path / "library"
    for module in ("os", "json", "http", "enum"):
        file = library / module / "__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text('"""' + "\n\n".join(_paragraphs(module, 12)) + '"""\n')
        for n in range(40):
            doc = _paragraphs(f"{module}{n}", 1)[0]
            (library / module / f"m{n}.py").write_text(f'"""{doc}"""\n')
    counts = None
    for run in ("one", "two"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(python_docs, "MIN_PER_PART", 10)
            counts = python_docs.make_demo_data(tmp_path / run, 300, library)
    for name in ("corpus.txt", "vocab.txt", "train.tsv", "dev.tsv", "test.tsv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    task = get_task("tsv", custom=CustomTaskConfig()).resolve_labels(tmp_path / "one")
    assert task.labels == ("data", "files", "network", "text")
    for split, count in counts.items():
        assert len(task.load(tmp_path / "one", split)) == count
    tokenizer = get_tokenizer("word_piece", tmp_path / "one" / "vocab.txt")
    assert tokenizer.special.unk_id not in tokenizer.encode("each number has an own word")


def _paragraphs(seed, count):
    text = "Text number {}x{} in which each of the own words has a place."
    return [text.format(seed, n) for n in range(count)]


def test_a_library_without_docstrings_is_an_error(tmp_path):
    (tmp_path / "os.py").write_text("x = 1\n")
    with pytest.raises(DataError, match="no docstrings"):
        python_docs.make_demo_data(tmp_path / "out", 300, tmp_path)
    assert not (tmp_path / "out").exists()
