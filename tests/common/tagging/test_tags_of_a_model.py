"""The tags of a model in another order than those of the task."""

import logging

import pytest

from funnel.config.heads import SavedHead
from funnel.config.tagging import TaggingFiles
from funnel.tasks.tagging.saved import take_tags
from funnel.tasks.tagging.task import tagging_task


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("O,B-X", 0),
        ("b-x,o", 1),  # the outputs of the model are o, b-x
        ("B-X,O", 1),
        ("o,b-x", 1),
    ],
)
def test_another_order_or_spelling_is_said(caplog, labels, said):
    head = SavedHead("model", 2, ("O", "B-X"))
    with caplog.at_level(logging.WARNING):
        task = take_tags(tagging_task("conll", TaggingFiles(labels=labels)), head)
    assert [label.upper() for label in task.labels] == ["O", "B-X"]
    assert sum("in this order" in text for text in caplog.messages) == said
