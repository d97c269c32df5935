"""Dev data held out from the training file."""

import numpy as np
import pytest

from classifier_runs import write_files
from funnel.features.classification import source_key
from funnel.features.held_out import HeldOutTask, choose_held_out, hold_out, without_dev
from funnel.tasks import get_task
from funnel.utils.errors import ConfigError, DataError


@pytest.fixture
def data(tmp_path):
    write_files(tmp_path, train=40)
    (tmp_path / "CoLA" / "dev.tsv").unlink()
    return tmp_path / "CoLA"


def test_both_parts_are_the_training_file(data):
    everything = get_task("cola").read(data, "train")
    task = hold_out(get_task("cola"), 0.25)
    train, dev = task.read(data, "train"), task.read(data, "dev")
    held_out = choose_held_out(40, 0.25)
    assert list(dev.examples) == [
        e for e, out in zip(everything.examples, held_out, strict=True) if out
    ]
    assert list(train.examples) == [
        e for e, out in zip(everything.examples, held_out, strict=True) if not out
    ]
    assert (train.report.rows, dev.report.rows) == (30, 10)
    assert sum(train.report.labels.values()) == 30 and sum(dev.report.labels.values()) == 10
    assert task.eval_splits == ("dev",) and task.path(data, "dev") == data / "train.tsv"
    assert len(task.read(data, "test").examples) == 9
    assert list(task.read(data, "dev").examples) == list(dev.examples)


def test_the_choice_is_the_same_on_every_machine():
    assert np.flatnonzero(choose_held_out(20, 0.2)).tolist() == [2, 4, 6, 19]
    assert choose_held_out(10, 0.26).sum() == 3


def test_caches_of_both_are_told_apart(data):
    plain = get_task("cola")
    keys = [source_key(hold_out(plain, f), "train", data) for f in (None, 0.1, 0.2)]
    assert keys[0] != keys[1] != keys[2]
    assert "dev_fraction" not in str(keys[0])
    assert source_key(hold_out(plain, 0.1), "test", data) == source_key(plain, "test", data)


def test_a_part_without_examples_is_refused(data):
    for fraction in (0.001, 0.999):
        with pytest.raises(DataError, match="leaves no dev data or no training data"):
            hold_out(get_task("cola"), fraction).read(data, "train")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"--dev_fraction=.*between 0 and 1"):
        hold_out(get_task("cola"), fraction)


def test_the_dev_splits_of_mnli_become_one():
    assert hold_out(get_task("mnli"), 0.1).eval_splits == ("dev",)
    assert isinstance(hold_out(get_task("mnli"), 0.1), HeldOutTask)
    assert without_dev(get_task("mnli")).eval_splits == ()
    assert hold_out(get_task("mnli"), None) == get_task("mnli")
