"""The memory that size advice estimates is what autograd stores, on the ``meta`` device."""

import pytest

torch = pytest.importorskip("torch")

from funnel.flops import load_sizes
from funnel.size_advice import stored_numbers
from funnel_torch.models.heads import FunnelForSequenceClassification

SIZES = load_sizes()


def _stored_bytes(model, batch, length):
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    stored = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            stored[storage._cdata] = storage  # kept alive: another could get its address
        return tensor

    ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
    mask = torch.ones(batch, length, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(ids, attention_mask=mask, token_type_ids=ids)
    return sum(storage.nbytes() for storage in stored.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["B4-4-4H768", "B8-8-8H1024", "L12H768"])
@pytest.mark.parametrize("length", [64, 512])
def test_the_estimate_is_close(name, length):
    with torch.device("meta"):
        model = FunnelForSequenceClassification(SIZES[name], 2).train()
    third = _stored_bytes(model, 3, length) - _stored_bytes(model, 2, length)
    assert stored_numbers(SIZES[name], length) * 4 == pytest.approx(third, rel=0.15)
