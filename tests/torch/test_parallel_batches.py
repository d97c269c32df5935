"""Prediction on a CPU computes a batch per thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from funnel import get_tokenizer
from funnel.config.model import ModelConfig
from funnel_torch import FunnelForSequenceClassification, Predictor

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film")
TEXTS = [" ".join(["good film"] * (1 + i * 7 % 23)) for i in range(90)]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder: Path = tmp_path_factory.mktemp("model")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    tokenizer = get_tokenizer("word_piece", folder / "vocab.txt")
    sizes = {"d_model": 8, "d_embed": 8, "n_head": 2, "d_head": 4, "d_inner": 16}
    config = ModelConfig(
        block_size="1x2_1", decoder_size="0", vocab_size=tokenizer.vocab_size, **sizes
    )
    model = FunnelForSequenceClassification(config, num_labels=2)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder / "saved", tokenizer=tokenizer, labels=("no", "yes"))
    return Predictor.from_pretrained(
        folder / "saved", max_length=64, batch_size=4, device="cpu", write_logits=True
    )


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_same_rows(predictor: Predictor, three_threads: None) -> None:
    found = predictor(TEXTS)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    for row, other in zip(found, predictor(TEXTS), strict=True):
        assert row["index"] == other["index"]
        assert row["logits"] == pytest.approx(other["logits"], abs=1e-5)


def test_batches_run_at_the_same_time(
    predictor: Predictor, three_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor(TEXTS[:8])
    compute, meeting = predictor.engine.compute, threading.Barrier(3, timeout=20)
    inside: set[int] = set()

    def meet(arrays):
        inside.add(torch.get_num_threads())
        meeting.wait()
        return compute(arrays)

    monkeypatch.setattr(predictor.engine, "compute", meet)
    assert len(predictor(TEXTS[:24])) == 24  # six batches, three at a time
    assert inside == {1}


def test_an_error_ends_it(
    predictor: Predictor, three_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor(TEXTS[:8])

    def fail(arrays):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(predictor.engine, "compute", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        predictor(TEXTS)
    assert torch.get_num_threads() == 3
