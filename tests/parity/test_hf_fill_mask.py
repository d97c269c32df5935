"""transformers' fill-mask pipeline on a tokenizer that we saved.

A special symbol inside a text is ordinary text to us, and our ids are what a saved tokenizer must
give. The pipeline needs the opposite of that for ``<mask>``: the caller asks for it.
"""

import pytest

from funnel import get_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from funnel.config.model import ModelConfig
from funnel_torch import FunnelEncoder

pytestmark = pytest.mark.slow

SPECIAL = {
    "angle": ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"],
    "square": ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
}
WORDS = ["red", "green", "warm", "mask", *"<>[]."]


@pytest.fixture(params=SPECIAL)
def saved(request, tmp_path):
    """Return our tokenizer and the directory of a model that was saved with it."""
    (tmp_path / "v.txt").write_text("\n".join([*SPECIAL[request.param], *WORDS]) + "\n")
    ours = get_tokenizer("word_piece", tmp_path / "v.txt", True)
    config = ModelConfig(ours.vocab_size, 8, 8, 1, 8, 16, "1")
    FunnelEncoder(config).save_pretrained(tmp_path / "m", tokenizer=ours)
    return ours, tmp_path / "m"


def test_texts_have_our_ids(saved):
    ours, folder = saved
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("red <mask> green.", "red [MASK] green.", "<cls>[SEP]"):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
        assert ours.special.mask_id not in ours.encode(text)


def test_the_pipeline_works_if_it_is_asked_for(saved):
    ours, folder = saved
    theirs = transformers.AutoTokenizer.from_pretrained(folder, split_special_tokens=False)
    config = transformers.FunnelConfig(
        vocab_size=ours.vocab_size, d_model=8, n_head=1, d_head=8, d_inner=16, block_sizes=[1],
        num_decoder_layers=1,
    )  # fmt: skip
    model = transformers.FunnelForMaskedLM(config).eval()
    fill = transformers.pipeline("fill-mask", model=model, tokenizer=theirs, device="cpu")
    found = fill(f"red {theirs.mask_token} green.", top_k=3)
    assert len(found) == 3
    ids = theirs(f"red {theirs.mask_token} green.")["input_ids"]
    assert ids.count(ours.special.mask_id) == 1
    with torch.no_grad():
        logits = model(**theirs(f"red {theirs.mask_token} green.", return_tensors="pt")).logits
    best = logits[0, ids.index(ours.special.mask_id)].argmax().item()
    assert found[0]["token"] == best
    assert theirs.encode("red green", add_special_tokens=False) == ours.encode("red green")
