"""Make a corpus, a vocabulary and a labelled task out of the text that comes with Python.

The docstrings of the standard library (read as source, never imported) and the language reference
in ``pydoc_data`` are about 2 MB of English. The task: which part of the library (networking, files,
concurrency, ...) does a paragraph of a docstring describe? It is honest: a source file belongs to
one split as a whole, no paragraph occurs twice, and the words of a file's own path are blanked in
its text. Nothing is downloaded; the same Python version gives the same bytes.

    python data-scripts/make_demo_data.py --output_dir=demo_output/data

Written: ``corpus.txt`` (a sentence a line, an empty line between documents; training files only),
``vocab.txt`` (WordPiece), ``train.tsv``, ``dev.tsv``, ``test.tsv`` (columns ``label``, ``text``).
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import _paths  # noqa: F401

from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text
from funnel.utils.main import run_main

# Part of the library -> its modules and packages. What is not named serves the corpus only.
PARTS = {
    "concurrency": (
        "asyncio concurrent contextlib multiprocessing queue sched selectors signal subprocess "
        "threading _threading_local"
    ),
    "data": (
        "_collections_abc _pydecimal _pydatetime _strptime abc bisect calendar collections copy "
        "dataclasses datetime enum fractions functools graphlib heapq numbers operator random "
        "statistics types typing weakref zoneinfo"
    ),
    "desktop": "curses idlelib tkinter turtle turtledemo",
    "development": (
        "ast bdb code codeop compileall dis distutils doctest ensurepip importlib inspect lib2to3 "
        "logging modulefinder pdb pkgutil profile pstats py_compile pydoc runpy symtable "
        "sysconfig timeit trace traceback tracemalloc unittest venv warnings"
    ),
    "files": (
        "_pyio bz2 dbm filecmp fileinput fnmatch genericpath glob gzip io linecache lzma ntpath "
        "os pathlib posixpath shelve shutil stat tarfile tempfile zipfile zipimport"
    ),
    "network": (
        "cgi email ftplib http imaplib ipaddress mailbox mailcap mimetypes netrc nntplib poplib "
        "smtpd smtplib socket socketserver ssl telnetlib urllib uuid webbrowser wsgiref xmlrpc"
    ),
    "text": (
        "argparse base64 codecs configparser csv difflib getopt gettext html json locale "
        "optparse pickle pickletools plistlib pprint quopri re shlex string textwrap tokenize "
        "tomllib xml"
    ),
}
LABELS = {module: part for part, modules in PARTS.items() for module in modules.split()}
LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
SHARES = {"dev": 0.10, "test": 0.15}  # of the paragraphs of every part; the rest is for training
MIN_WORDS = 8
MIN_PER_PART = 200  # what an installation hardly has is left out: tkinter is often missing

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Source:
    """One file of the library: its path below the library's root and its docstrings' paragraphs."""

    path: str
    paragraphs: tuple[str, ...]

    @property
    def label(self) -> str | None:
        """Part of the library the file belongs to, None for files that serve the corpus only."""
        return LABELS.get(self.path.split("/")[0].removesuffix(".py"))


def read_library(root: Path) -> list[Source]:
    """Return the documented files of the standard library below ``root``, sorted by path."""
    sources = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        if LEFT_OUT & set(path.parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates and samples that are no valid Python of this version
        docs = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, _DOCUMENTED))
        paragraphs = tuple(p for doc in docs if doc for p in prose(doc))
        if paragraphs:
            sources.append(Source(path.as_posix(), paragraphs))
    return sources


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring as single lines, without interactive sessions."""
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        if ">>>" not in line and len(re.findall(r"[A-Za-z]{2,}", line)) >= MIN_WORDS:
            yield line


def reference_topics() -> list[str]:
    """Return the topics of Python's built-in help, a few hundred lines of text each."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def blank_own_name(text: str, path: str) -> str:
    """Replace every word of a file's own path by ``it``: the label must not stand in the text."""
    own = {word for part in Path(path).with_suffix("").parts for word in part.strip("_").split("_")}
    words = "|".join(re.escape(word) for word in sorted(own, key=len, reverse=True) if word)
    return re.sub(rf"(?i)(?<![a-z0-9]){'(?:' + words + ')'}(?![a-z0-9])", "it", text)


def labelled_paragraphs(sources: Iterable[Source]) -> dict[str, list[tuple[str, str]]]:
    """Return {label: [(path, text)]}: each text once, none that occurs under two labels."""
    found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for source in sources:
        if source.label is not None:
            for paragraph in source.paragraphs:
                text = blank_own_name(paragraph, source.path)
                found[text.lower()].append((source.label, source.path, text))
    result: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for occurrences in found.values():
        label, path, text = occurrences[0]
        if all(other == label for other, _, _ in occurrences):
            result[label].append((path, text))
    return {label: rows for label, rows in sorted(result.items()) if len(rows) >= MIN_PER_PART}


def assign_files(rows: list[tuple[str, str]]) -> dict[str, str]:
    """Give every file of one label to one split.

    Files come in the order of a hash of their path; test and dev take whole files up to their
    share, and none that would make up more than half of it.
    """
    sizes = Counter(path for path, _ in rows)
    order = sorted(sizes, key=lambda path: hashlib.sha256(path.encode()).digest())
    splits = {}
    for split, share in SHARES.items():
        quota, taken = share * len(rows), 0
        for path in order:
            if path not in splits and sizes[path] <= quota / 2 and taken + sizes[path] <= quota:
                splits[path] = split
                taken += sizes[path]
    return {path: splits.get(path, "train") for path in sizes}


def make_splits(sources: list[Source]) -> tuple[dict[str, list[tuple[str, str]]], set[str]]:
    """Return ({split: [(label, text)]}, paths of the files held out for dev and test)."""
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
    held_out = set()
    for label, rows in labelled_paragraphs(sources).items():
        split_of = assign_files(rows)
        held_out |= {path for path, split in split_of.items() if split != "train"}
        for path, text in rows:
            splits[split_of[path]].append((label, text))
    return splits, held_out


def corpus_lines(sources: Iterable[Source], held_out: set[str]) -> Iterator[str]:
    """Yield the corpus a sentence a line, an empty line after every document."""
    documents = [source.paragraphs for source in sources if source.path not in held_out]
    documents += [tuple(prose(topic)) for topic in reference_topics()]
    for paragraphs in documents:
        for paragraph in paragraphs:
            yield from _SENTENCE_END.split(paragraph)
        yield ""


def make_demo_data(output_dir: Path, vocab_size: int, library: Path) -> dict[str, int]:
    """Write the five files below ``output_dir``; return {split: number of examples}."""
    sources = read_library(library)
    splits, held_out = make_splits(sources)
    if not all(splits.values()):
        raise DataError(f"{library}: no docstrings to learn from; a full Python installation has")
    lines = list(corpus_lines(sources, held_out))
    atomic_write_text(output_dir / "corpus.txt", "".join(f"{line}\n" for line in lines))
    build_vocabulary(lines, output_dir / "vocab.txt", VocabularyConfig(vocab_size=vocab_size))
    for split, rows in splits.items():
        table = "".join(f"{label}\t{text}\n" for label, text in rows)
        atomic_write_text(output_dir / f"{split}.tsv", f"label\ttext\n{table}")
    return {split: len(rows) for split, rows in splits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="directory for the files")
    parser.add_argument("--vocab_size", type=int, default=6000, help="entries of the vocabulary")
    parser.add_argument(
        "--library",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="root of a standard library (default: of the Python that runs this)",
    )
    args = parser.parse_args()
    counts = make_demo_data(args.output_dir, args.vocab_size, args.library)
    print(f"{args.output_dir}: " + ", ".join(f"{n} {split}" for split, n in counts.items()))


if __name__ == "__main__":
    run_main(main)
