"""Labels that no file of predictions can hold."""

import pytest

from funnel.tasks.labels import FoundLabels
from funnel.utils.errors import DataError


@pytest.mark.parametrize("label", ["y\ud800", "\udfff", "a\udc00b"])
def test_half_a_surrogate_pair_is_refused_before_training(label):
    labels = FoundLabels()
    labels.add("😀 yes", "train.jsonl:1")
    with pytest.raises(DataError, match=r"^train\.jsonl:2: label .* half of a surrogate pair"):
        labels.add(label, "train.jsonl:2")
    assert labels.ordered() == ("😀 yes",)
