"""Scores as text: the main figures in one line. Result files hold all of them."""

from __future__ import annotations

from collections.abc import Mapping

# Ends of the names of thresholds and counts, which are no scores.
_NO_SCORES = ("thresh", "threshold", "total")
# Figures left out where another says the same: SQuAD's at the threshold that is best for F1, and
# its fractions before any threshold; one of accuracy and error rate.
_REPEATED = {
    "best_f1": ("f1", "exact", "has_ans_exact", "has_ans_f1"),
    "accuracy": ("error_rate",),
}


def main_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics to show, the main one first.

    Args:
        metrics: all of them by name; the first one, by which models are compared, is always shown.
    """
    names = list(metrics)
    hidden = {name for name in names[1:] if name.rpartition("_")[2] in _NO_SCORES}
    for shown, others in _REPEATED.items():
        hidden |= set(others) if shown in metrics else set()
    if names and names[0] == "error_rate":
        hidden = (hidden - {"error_rate"}) | {"accuracy"}
    return {name: metrics[name] for name in names if name == names[0] or name not in hidden}


def format_scores(metrics: Mapping[str, float]) -> str:
    """Return the main figures as text: ``accuracy 0.7112, loss 0.5931``."""
    return ", ".join(f"{name} {value:.4f}" for name, value in main_figures(metrics).items())
