"""The seven text-classification sets of the Funnel-Transformer paper (section 3).

They have no development set: the "dev" split is the test file, and the published figures are error
rates on it.
"""

from __future__ import annotations

from funnel.tasks.base import Task
from funnel.tasks.tables import Source

_METRICS = ("accuracy", "error_rate")


def _csv(name: str, classes: int, title: bool) -> Task:
    """Return a task of Zhang et al. 2015: CSV without header; class from 1, title if any, text."""
    columns = (1, 2 if title else None, 0)
    width = 3 if title else 2

    def source(file: str) -> Source:
        return Source((file,), *columns, format="csv", header=False, width=width, delimiter=",")

    labels = tuple(str(number) for number in range(1, classes + 1))
    test = source("test.csv")
    sources = {"train": source("train.csv"), "dev": test, "test": test}
    return Task(name, labels, sources, _METRICS, clean=True)


def _imdb() -> Task:
    train = Source(("train",), label=0, format="folders", header=False)
    test = Source(("test",), label=0, format="folders", header=False)
    sources = {"train": train, "dev": test, "test": test}
    return Task("imdb", ("neg", "pos"), sources, _METRICS, clean=True)


TASKS = (
    _csv("yelp2", 2, title=False),
    _csv("yelp5", 5, title=False),
    _csv("amazon2", 2, title=True),
    _csv("amazon5", 5, title=True),
    _csv("dbpedia", 14, title=True),
    _csv("ag", 4, title=True),
    _imdb(),
)

ALIASES = {
    "yelp_review_polarity": "yelp2",
    "yelp_review_full": "yelp5",
    "amazon_review_polarity": "amazon2",
    "amazon_review_full": "amazon5",
    "dbpedia_14": "dbpedia",
    "ag_news": "ag",
    "aclimdb": "imdb",
}
