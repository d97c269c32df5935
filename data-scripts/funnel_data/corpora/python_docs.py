"""A corpus and two labelled tasks made from the docstrings of installed packages, for the demo."""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json, atomic_write_text

# Import name and distribution. The order is that of the corpus.
DISTRIBUTIONS = {
    "torch": "torch",
    "scipy": "scipy",
    "sympy": "sympy",
    "sklearn": "scikit-learn",
    "networkx": "networkx",
    "numpy": "numpy",
    "matplotlib": "matplotlib",
}
# The classes of the task, by package. Files of other sub-packages are in the corpus only.
_PARTS = {
    "torch": "distributed nn fx _inductor _dynamo",
    "scipy": "stats optimize signal sparse interpolate linalg spatial special",
    "sympy": "physics polys solvers core matrices combinatorics functions",
    "sklearn": (
        "linear_model metrics ensemble model_selection cluster decomposition preprocessing"
    ),
    "networkx": "algorithms classes generators",
    "numpy": "lib _core ma polynomial",
    "matplotlib": "axes",
}
LABELS = frozenset(f"{package}.{part}" for package, x in _PARTS.items() for part in x.split())
LEFT_OUT = {"tests", "test", "testing", "_vendor", "__pycache__"}
MASKED = "networkx matplotlib torch pytorch scipy sympy sklearn scikit numpy nx np plt sp learn"
# Of a hundred parts into which the files are divided by a hash of their path.
FIRST_DEV, FIRST_TEST = 60, 74
MIN_WORDS = 8  # of a paragraph
TASKS = ("topic", "order")

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class TaskConfig:
    """Size of the labelled tasks."""

    train: int = 1000  # examples of the first task
    order_train: int = 3000  # of the second, whose labels cost nothing
    dev: int = 500  # only to choose the epoch
    test: int = 2000
    min_words: int = 40  # of a text; shorter docstrings are in the corpus only
    max_words: int = 80  # longer ones are cut
    max_per_file: int = 20  # texts of one file, so that no file decides a score
    swapped: float = 0.25  # pairs of neighbours that change places, per word


@dataclass(frozen=True)
class Docstring:
    """The prose of one docstring: path below the packages' folder, and its paragraphs."""

    path: str
    paragraphs: tuple[str, ...]

    @property
    def label(self) -> str:
        """Package and sub-package, ``scipy.stats``."""
        parts = self.path.split("/")
        return ".".join(parts[:2]) if len(parts) > 2 else parts[0]

    @cached_property
    def split(self) -> str:
        """The split of all docstrings of this file: train, dev or test."""
        place = int(hashlib.sha256(self.path.encode()).hexdigest(), 16) % 100
        return "train" if place < FIRST_DEV else "dev" if place < FIRST_TEST else "test"

    @property
    def held_out(self) -> bool:
        """Whether the file belongs to dev or test, which pretraining must not see."""
        return self.label in LABELS and self.split != "train"


def read_package(folder: Path) -> list[Docstring]:
    """Return the docstrings of a package, files sorted by path; files are parsed, never run."""
    docstrings = []
    for file in sorted(folder.rglob("*.py")):
        path = file.relative_to(folder.parent)
        if LEFT_OUT & set(path.parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates, and samples that this Python version cannot parse
        docs = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, _DOCUMENTED))
        found = (tuple(prose_paragraphs(doc)) for doc in docs if doc)
        docstrings += [Docstring(path.as_posix(), p) for p in found if p]
    return docstrings


def prose_paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring as single lines, without interactive sessions."""
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        if ">>>" not in line and len(re.findall(r"[A-Za-z]{2,}", line)) >= MIN_WORDS:
            yield line


def mask_names(text: str, path: str) -> str:
    """Replace the packages' names and every word of the file's own path by ``it``.

    They would give the label away.
    """
    parts = Path(path).with_suffix("").parts
    own = {word for part in parts for word in part.strip("_").split("_")} | set(MASKED.split())
    words = "|".join(sorted((re.escape(word) for word in own if word), key=len, reverse=True))
    return re.sub(rf"(?i)(?<![a-z0-9])(?:{words})(?![a-z0-9])", "it", text)


def labelled_texts(
    docstrings: Iterable[Docstring], config: TaskConfig
) -> Iterator[tuple[Docstring, str]]:
    """Yield (docstring, masked text) of those long enough; a text that occurs twice is left out."""
    found: dict[str, list[Docstring]] = {}
    for doc in docstrings:
        # Files outside the classes count as well: their text is in the corpus.
        text = mask_names(" ".join(doc.paragraphs), doc.path)
        words = text.split()
        if len(words) >= config.min_words:
            found.setdefault(" ".join(words[: config.max_words]), []).append(doc)
    for text, owners in found.items():
        if len(owners) == 1 and owners[0].label in LABELS:
            yield owners[0], text


def make_splits(
    docstrings: Iterable[Docstring], config: TaskConfig
) -> dict[str, list[tuple[str, str]]]:
    """Return {split: [(label, text)]}, each in the order of a hash of the text."""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
    by_hash = sorted(
        labelled_texts(docstrings, config),
        key=lambda item: hashlib.sha256(item[1].encode()).digest(),
    )
    used: Counter[str] = Counter()
    for doc, text in by_hash:
        split = rows[doc.split]
        if used[doc.path] < config.max_per_file and len(split) < getattr(config, doc.split):
            used[doc.path] += 1
            split.append((doc.label, text))
    # A class without a training example cannot be learnt.
    known = {label for label, _ in rows["train"]}
    return {name: [row for row in split if row[0] in known] for name, split in rows.items()}


def make_order_task(
    splits: dict[str, list[tuple[str, str]]], share: float
) -> dict[str, list[tuple[str, str]]]:
    """Return the same texts, every other one with words swapped, labelled intact or swapped.

    Both classes have the same words, so that a bag of words cannot tell them apart.
    """
    return {
        name: [
            ("swapped", swap_words(text, share)) if n % 2 else ("intact", text)
            for n, (_, text) in enumerate(rows)
        ]
        for name, rows in splits.items()
    }


def swap_words(text: str, share: float) -> str:
    """Let ``share`` times the number of words disjoint pairs of neighbours change places.

    The pairs are drawn with the text as the seed.
    """
    words = text.split()
    pairs = range(0, len(words) - 1, 2)
    count = min(len(pairs), max(1, round(share * len(words))))
    for place in random.Random(text).sample(pairs, count):
        words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words)


def corpus_lines(docstrings: Iterable[Docstring]) -> Iterator[str]:
    """Yield the corpus, one sentence per line and an empty line after every docstring."""
    for doc in docstrings:
        if not doc.held_out:
            for paragraph in doc.paragraphs:
                yield from _SENTENCE_END.split(paragraph)
            yield ""


def read_packages(roots: Sequence[Path]) -> tuple[list[Docstring], dict[str, str]]:
    """Return the docstrings of the packages found below ``roots``, and {package: version}.

    Raises:
        DataError: none of the packages is there.
    """
    docstrings: list[Docstring] = []
    versions = {}
    for package, distribution in DISTRIBUTIONS.items():
        folder = next((root / package for root in roots if (root / package).is_dir()), None)
        if folder is None:
            continue
        docstrings += read_package(folder)
        try:
            versions[package] = version(distribution).partition("+")[0]  # without +cpu
        except PackageNotFoundError:
            versions[package] = "unknown"
    if not docstrings:
        places = ", ".join(map(str, roots))
        raise DataError(f"{places}: there are no docstrings of {', '.join(DISTRIBUTIONS)}")
    return docstrings, versions


def make_demo_data(
    output_dir: Path,
    roots: Sequence[Path],
    config: TaskConfig | None = None,
    vocab_size: int | None = None,
) -> dict[str, int]:
    """Write the tasks, and with a ``vocab_size`` corpus and vocabulary; return {file: rows}.

    The tasks are folders of ``output_dir``: ``topic`` (the sub-package) and ``order``.

    Raises:
        DataError: no package, or a split without examples.
    """
    docstrings, versions = read_packages(roots)
    config = config or TaskConfig()
    splits = make_splits(docstrings, config)
    if not all(splits.values()):
        raise DataError(f"{', '.join(versions)}: too few docstrings for train, dev and test")
    counts = {}
    if vocab_size is not None:
        lines = list(corpus_lines(docstrings))
        atomic_write_text(output_dir / "corpus.txt", "".join(f"{line}\n" for line in lines))
        build_vocabulary(lines, output_dir / "vocab.txt", VocabularyConfig(vocab_size=vocab_size))
        counts["corpus"] = len(lines) - lines.count("")
    more = make_splits(docstrings, replace(config, train=config.order_train))
    counts |= {split: len(rows) for split, rows in splits.items()}
    counts["order_train"] = len(more["train"])
    both = (splits, make_order_task(more, config.swapped))
    for task, task_splits in zip(TASKS, both, strict=True):
        for split, rows in task_splits.items():
            table = "".join(f"{label}\t{text}\n" for label, text in rows)
            atomic_write_text(output_dir / task / f"{split}.tsv", f"label\ttext\n{table}")
    atomic_write_json(output_dir / "manifest.json", {"packages": versions, "rows": counts})
    return counts
