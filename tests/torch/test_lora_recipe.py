"""The LoRA recipe of docs/fine_tuning.md: it trains, and its merged model is an ordinary one."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import readme_commands
import repo_layout
from funnel.config.model import ModelConfig
from funnel_torch import FunnelForSequenceClassification, FunnelModel

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
TRAINING = "# ... train `adapted` with a loop of your own ...\n"


def test_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32}
    config = ModelConfig(vocab_size=20, block_size="1_1", dropout=0.0, dropatt=0.0, **sizes)
    torch.manual_seed(0)
    FunnelModel(config).save_pretrained("ckpts/B6-6-6H768-ELEC-PT")
    page = repo_layout.ROOT / "docs" / "fine_tuning.md"
    (code,) = [text for text in readme_commands.blocks(page, "python") if "LoraConfig" in text]
    before, after = code.split(TRAINING)
    names = {}
    exec(before, names)
    model, adapted = names["model"], names["adapted"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rsplit(".")[-2] for name in trained if "lora_" in name} == {"default"}
    assert all("lora_" in name for name in trained if name.startswith("funnel."))
    assert any("lora_" not in name for name in trained)  # the head

    ids, labels = torch.randint(9, 20, (8, 10)), torch.tensor([0, 1] * 4)
    first = adapted(ids).logits.detach()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        loss = adapted(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.eval()
    wanted = adapted(ids).logits
    assert not torch.allclose(first, wanted)
    exec(after, names)
    merged = FunnelForSequenceClassification.from_pretrained("runs/rte-lora").eval()
    torch.testing.assert_close(merged(ids).logits, wanted)
    # The adapters themselves changed the attention, not only the head.
    base = FunnelModel.from_pretrained("ckpts/B6-6-6H768-ELEC-PT").encoder.layers[0]
    assert not torch.equal(
        base.attention.qkv_weight, merged.funnel.encoder.layers[0].attention.qkv_weight
    )
