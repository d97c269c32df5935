"""Arguments of the class Predictor that cannot be used: one clear error each."""

import pytest

torch = pytest.importorskip("torch")

from funnel import get_tokenizer
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError, FunnelError, RunError
from funnel_torch import FunnelForSequenceClassification, Predictor

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    tokenizer = get_tokenizer("word_piece", folder / "vocab.txt")
    sizes = {"d_model": 8, "d_embed": 8, "n_head": 2, "d_head": 4, "d_inner": 16}
    config = ModelConfig(
        block_size="1_1", decoder_size="0", vocab_size=tokenizer.vocab_size, **sizes
    )
    saved = FunnelForSequenceClassification(config, num_labels=2)
    saved.save_pretrained(folder / "saved", tokenizer=tokenizer, labels=("no", "yes"))
    return folder / "saved"


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:", "tpu", "cuda:-1"])
def test_unknown_device(model, name):
    with pytest.raises(ConfigError, match=f"device='{name}': should be auto, cpu, cuda"):
        Predictor.from_pretrained(model, device=name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_device(model):
    with pytest.raises(RunError, match="finds no CUDA GPU"):
        Predictor.from_pretrained(model, device="cuda")


def test_int8_on_another_device(model, monkeypatch):
    monkeypatch.setattr(
        "funnel_torch.inference.predictor.choose_device", lambda *_: torch.device("cuda", 0)
    )
    with pytest.raises(ConfigError, match="int8 and onnx compute on the CPU"):
        Predictor.from_pretrained(model, device="cuda", int8=True)


def test_unknown_option(model):
    with pytest.raises(ConfigError, match="batchsize: unknown option; there are .*batch_size"):
        Predictor.from_pretrained(model, batchsize=3)


def test_values_that_are_no_inputs(model):
    predictor = Predictor.from_pretrained(model, device="cpu")
    for value in (None, 3, [None], [["a", 1]], {"text": "a"}, b"a", [b"a"], ("a", "b", "c")):
        with pytest.raises(FunnelError, match="input"):
            predictor(value)
    assert predictor([]) == []
    assert [row["label"] is None for row in predictor(["", "a good film"])] == [False, False]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0}, {"batch_size": -1}, {"batch_size": 1.5}, {"batch_size": "8"},
        {"max_length": 2}, {"max_length": -5}, {"max_length": "128"}, {"max_length": 16.5},
        {"threshold": 2.0}, {"threshold": float("nan")}, {"threshold": "0.5"},
        {"write_logits": "no"}, {"doc_stride": 0}, {"na_threshold": float("nan")},
    ],
)  # fmt: skip
def test_options_that_cannot_work(model, options):
    with pytest.raises(FunnelError, match=next(iter(options))):
        Predictor.from_pretrained(model, **options)(["a good film"])
