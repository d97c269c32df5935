"""These tests need a GPU; FUNNEL_GPU_TESTS=cpu tries their code on the CPU instead."""

import os

import pytest

ON_CPU = os.environ.get("FUNNEL_GPU_TESTS") == "cpu"


@pytest.fixture
def device():
    """The GPU; in a trial the CPU."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available() and not ON_CPU:
        return torch.device("cuda", 0)
    if not ON_CPU:
        pytest.skip("no GPU")
    return torch.device("cpu")


@pytest.fixture
def fused(device, monkeypatch):
    """The precisions in which the fused kernels run; in a trial Triton's interpreter runs them."""
    torch = pytest.importorskip("torch")
    if device.type == "cuda":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}
    monkeypatch.setattr("funnel_torch.models.attention.why_not_fused", lambda q, ratio: None)
    return {"fp32": None}
