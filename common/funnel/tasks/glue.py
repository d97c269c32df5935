"""GLUE with its diagnostic set, and SNLI (Wang et al. 2018; Bowman et al. 2015).

Columns are 0-based positions in the published files; -1 is the last one, because MNLI's training
file has 12 columns and its development files have 16.
"""

from __future__ import annotations

from funnel.tasks.base import Task
from funnel.tasks.tables import Source

_NLI = ("contradiction", "entailment", "neutral")
_RTE = ("entailment", "not_entailment")
_BINARY = ("0", "1")
_ACCURACY = ("accuracy",)


def _pairs(label: int, texts: tuple[int, int], test: tuple[int, int]) -> dict[str, Source]:
    """Return three files with headers; ``test`` has the columns of the texts in the test file."""
    return {
        "train": Source(("train.tsv",), *texts, label),
        "dev": Source(("dev.tsv",), *texts, label),
        "test": Source(("test.tsv",), *test),
    }


def _mnli(genre: str) -> dict[str, Source]:
    return {
        "train": Source(("train.tsv",), 8, 9, -1),
        "dev": Source((f"dev_{genre}.tsv",), 8, 9, -1),
        "test": Source((f"test_{genre}.tsv",), 8, 9),
    }


def _cola() -> dict[str, Source]:
    return {
        "train": Source(("train.tsv",), 3, None, 1, header=False, width=4),
        "dev": Source(("dev.tsv",), 3, None, 1, header=False, width=4),
        "test": Source(("test.tsv",), 1),
    }


def _sst_2() -> dict[str, Source]:
    return {
        "train": Source(("train.detok.tsv", "train.tsv"), 0, None, 1),
        "dev": Source(("dev.detok.tsv", "dev.tsv"), 0, None, 1),
        "test": Source(("test.detok.tsv", "test.tsv"), 1),
    }


def _snli() -> dict[str, Source]:
    columns = ("sentence1", "sentence2", "gold_label")
    return {split: Source((f"{split}.tsv",), *columns) for split in ("train", "dev", "test")}


_F1 = ("accuracy_f1", "accuracy", "f1")

TASKS = (
    Task("cola", _BINARY, _cola(), ("matthews_corr", "accuracy"), submission_file="CoLA.tsv"),
    Task("sst-2", _BINARY, _sst_2(), _ACCURACY, submission_file="SST-2.tsv"),
    Task("mrpc", _BINARY, _pairs(0, (3, 4), (3, 4)), _F1, submission_file="MRPC.tsv"),
    Task("qqp", _BINARY, _pairs(5, (3, 4), (1, 2)), _F1, submission_file="QQP.tsv"),
    Task(
        "sts-b",
        None,
        _pairs(9, (7, 8), (7, 8)),
        ("pearson_spearman", "pearson", "spearman"),
        is_regression=True,
        label_range=(0.0, 5.0),
        submission_file="STS-B.tsv",
    ),
    Task(
        "mnli_matched",
        _NLI,
        _mnli("matched"),
        _ACCURACY,
        submission_file="MNLI-m.tsv",
        also_submits="diagnostic",
    ),
    Task("mnli_mismatched", _NLI, _mnli("mismatched"), _ACCURACY, submission_file="MNLI-mm.tsv"),
    Task("snli", _NLI, _snli(), _ACCURACY, skipped_labels=("-",)),
    Task("qnli", _RTE, _pairs(3, (1, 2), (1, 2)), _ACCURACY, submission_file="QNLI.tsv"),
    Task("rte", _RTE, _pairs(3, (1, 2), (1, 2)), _ACCURACY, submission_file="RTE.tsv"),
    Task(
        "wnli",
        _BINARY,
        _pairs(3, (1, 2), (1, 2)),
        _ACCURACY,
        submission_file="WNLI.tsv",
        # Development pairs repeat training sentences with the opposite label, so a trained model is
        # worse than the majority class.
        constant_prediction=0,
    ),
    Task(
        "diagnostic",
        _NLI,
        {"test": Source(("diagnostic.tsv", "AX.tsv"), 1, 2)},
        (),
        submission_file="AX.tsv",
    ),
)

ALIASES = {
    "sst": "sst-2",
    "sts": "sts-b",
    "mnli": "mnli_matched",
    "mnli-m": "mnli_matched",
    "mnli-mm": "mnli_mismatched",
    "ax": "diagnostic",
}
