"""Entities and their scores are those of seqeval, by default and strictly."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.tasks.tagging.metrics import entity_scores, tag_accuracy
from funnel.tasks.tagging.schemes import (
    Entity,
    detect_scheme,
    find_entities,
    find_strict_entities,
    find_violation,
)
from funnel.utils.errors import ConfigError

GOLD = [
    ["O", "O", "B-PER", "I-PER", "O", "B-LOC"],
    ["B-LOC", "I-LOC", "B-LOC", "O"],
    ["I-ORG", "I-ORG", "O", "B-PER"],
]
FOUND = [
    ["O", "B-PER", "I-PER", "I-PER", "O", "B-LOC"],
    ["B-LOC", "I-LOC", "I-LOC", "O"],
    ["I-ORG", "B-ORG", "O", "B-PER"],
]
# Computed with seqeval 1.2.2.
LENIENT = {"precision": 2 / 6, "recall": 2 / 6, "f1": 2 / 6}
STRICT = {
    "iob2": {"precision": 0.4, "recall": 0.4, "f1": 0.4},
    "iob1": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
}
LETTERS = {"iob1": "BI", "iob2": "BI", "iobes": "BIES"}


def test_fixed_values():
    assert entity_scores(GOLD, FOUND) == pytest.approx(LENIENT)
    for scheme, expected in STRICT.items():
        assert entity_scores(GOLD, FOUND, scheme) == pytest.approx(expected)
    assert tag_accuracy(GOLD, FOUND) == pytest.approx(10 / 14)
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert entity_scores([["O"]], [["O"]]) == nothing
    for call in (entity_scores, tag_accuracy):
        with pytest.raises(ValueError, match="same words"):
            call(GOLD, FOUND[:2])


@st.composite
def _both(draw, letters):
    tags = st.sampled_from(["O", *(f"{x}-{kind}" for x in letters for kind in ("PER", "X-Y"))])
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    return [[draw(st.lists(tags, min_size=n, max_size=n)) for n in sizes] for _ in range(2)]


def _seqeval(gold, found, **mode):
    metrics = pytest.importorskip("seqeval.metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = ("precision", "recall", "f1")
        return {name: getattr(metrics, f"{name}_score")(gold, found, **mode) for name in names}


@settings(max_examples=80, deadline=None)
@given(both=_both("BIES"))
def test_any_tags_score_as_seqeval_reads_them(both):
    assert entity_scores(*both) == pytest.approx(_seqeval(*both))


@pytest.mark.parametrize("scheme", LETTERS)
def test_strict_scores_are_those_of_seqeval(scheme):
    theirs = getattr(pytest.importorskip("seqeval.scheme"), scheme.upper())

    @settings(max_examples=60, deadline=None)
    @given(both=_both(LETTERS[scheme]))
    def check(both):
        expected = _seqeval(*both, mode="strict", scheme=theirs)
        assert entity_scores(*both, scheme) == pytest.approx(expected)

    check()


def test_entities():
    tags = ["B-PER", "I-PER", "I-LOC", "O", "S-LOC", "E-LOC"]
    assert find_entities(tags) == [
        Entity("PER", 0, 2), Entity("LOC", 2, 3), Entity("LOC", 4, 5), Entity("LOC", 5, 6)
    ]  # fmt: skip
    assert find_strict_entities(tags, "iobes") == [Entity("LOC", 4, 5)]
    with pytest.raises(ConfigError, match="'bio' is not one of iob1, iob2, iobes"):
        find_strict_entities(tags, "bio")


@pytest.mark.parametrize(
    ("scheme", "sentences"),
    [
        ("iob2", ["B-PER I-PER O", "O O"]),
        ("iob2", ["B-PER B-PER", "B-LOC O"]),
        ("iob1", ["I-PER I-PER B-PER", "I-LOC O"]),
        ("iobes", ["B-PER E-PER", "S-LOC O"]),
        ("none", ["NN VB", "O B-PER"]),
        ("none", ["O O"]),
        ("iob2", ["B-PER O", "B-LOC I-LOC", "I-PER O"]),
    ],
)
def test_schemes_are_detected(scheme, sentences):
    assert detect_scheme([text.split() for text in sentences]) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "place"),
    [
        ("B-PER I-PER O", "iob2", None),
        ("O I-PER", "iob2", 1),
        ("B-PER I-LOC", "iob2", 1),
        ("I-PER B-PER I-LOC", "iob1", None),
        ("O B-PER", "iob1", 1),
        ("B-PER O", "iobes", 1),
        ("B-PER", "iobes", 1),
        ("B-PER E-PER S-PER", "iobes", None),
        ("E-PER", "iobes", 0),
        ("NN", "iob2", 0),
        ("S-PER", "iob2", 0),
    ],
)
def test_what_breaks_a_scheme_is_found(tags, scheme, place):
    assert find_violation(tags.split(), scheme) == place
