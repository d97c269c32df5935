"""A corpus, a vocabulary and a labelled task made from Python's own documentation, for the demo."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text

# Modules and packages by part of the library, the label. Files of no part are in the corpus only.
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
SHARES = {"dev": 0.10, "test": 0.15}  # of the paragraphs of every part; the rest is train
MIN_WORDS = 8
MIN_PER_PART = 200  # paragraphs; smaller parts are left out (tkinter is often not installed)

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Source:
    """A library file: its path relative to the root, and the paragraphs of its docstrings."""

    path: str
    paragraphs: tuple[str, ...]

    @property
    def label(self) -> str | None:
        """Part of the library the file belongs to, None if it is in the corpus only."""
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
            continue  # templates and samples that this Python version cannot parse
        docs = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, _DOCUMENTED))
        paragraphs = tuple(p for doc in docs if doc for p in prose_paragraphs(doc))
        if paragraphs:
            sources.append(Source(path.as_posix(), paragraphs))
    return sources


def prose_paragraphs(text: str) -> Iterator[str]:
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
    """Replace every word of a file's own path by ``it``, since the path gives the label away."""
    own = {word for part in Path(path).with_suffix("").parts for word in part.strip("_").split("_")}
    words = "|".join(re.escape(word) for word in sorted(own, key=len, reverse=True) if word)
    return re.sub(rf"(?i)(?<![a-z0-9]){'(?:' + words + ')'}(?![a-z0-9])", "it", text)


def labelled_paragraphs(sources: Iterable[Source]) -> dict[str, list[tuple[str, str]]]:
    """Return {label: [(path, text)]}, each text once, without texts that have two labels."""
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
    """Return {path: split} for the files of one label.

    Files are assigned in the order of a hash of their path. Dev and test take files up to their
    share of the paragraphs, and none that would fill more than half of it.
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
        split_by_path = assign_files(rows)
        held_out |= {path for path, split in split_by_path.items() if split != "train"}
        for path, text in rows:
            splits[split_by_path[path]].append((label, text))
    return splits, held_out


def corpus_lines(sources: Iterable[Source], held_out: set[str]) -> Iterator[str]:
    """Yield the corpus, one sentence per line and an empty line after every document."""
    documents = [source.paragraphs for source in sources if source.path not in held_out]
    documents += [tuple(prose_paragraphs(topic)) for topic in reference_topics()]
    for paragraphs in documents:
        for paragraph in paragraphs:
            yield from _SENTENCE_END.split(paragraph)
        yield ""


def make_demo_data(output_dir: Path, vocab_size: int, library: Path) -> dict[str, int]:
    """Write the five files to ``output_dir``; return {split: number of examples}.

    Raises:
        DataError: ``library`` has no docstrings.
    """
    sources = read_library(library)
    splits, held_out = make_splits(sources)
    if not all(splits.values()):
        raise DataError(f"{library}: there are no docstrings; use a complete Python installation")
    lines = list(corpus_lines(sources, held_out))
    atomic_write_text(output_dir / "corpus.txt", "".join(f"{line}\n" for line in lines))
    build_vocabulary(lines, output_dir / "vocab.txt", VocabularyConfig(vocab_size=vocab_size))
    for split, rows in splits.items():
        table = "".join(f"{label}\t{text}\n" for label, text in rows)
        atomic_write_text(output_dir / f"{split}.tsv", f"label\ttext\n{table}")
    return {split: len(rows) for split, rows in splits.items()}
