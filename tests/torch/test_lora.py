"""LoRA: the recipe of docs/fine_tuning.md, and ``--lora_rank``; merged models are ordinary ones."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import json

import readme_commands
import repo_layout
from classifier_runs import arguments, curve, invoke, load_program, refuse, write_files
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


def test_runs_with_adapters_resume_and_leave_ordinary_models(tmp_path, monkeypatch, capsys):
    write_files(tmp_path)
    program = load_program("classifier")
    common = {"lora_rank": 2, "lr": 0.01, "save_steps": 4, "write_prediction": True}
    complete, argv = (arguments(tmp_path, name, **common) for name in ("complete", "stopped"))
    assert invoke(program, complete) == 0
    with monkeypatch.context() as patched:

        def stop(self, scores):
            raise KeyboardInterrupt

        patched.setattr("funnel_torch.training.trainer.Trainer._update_best", stop)
        assert invoke(program, argv) == 130  # in step 6, with step 4 saved
    assert invoke(program, argv) == 0
    run, other = tmp_path / "stopped", tmp_path / "complete"
    assert curve(run) == curve(other)
    weights = [folder / "last" / "model.safetensors" for folder in (run, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    parameters = json.loads((run / "run_config.json").read_text())["resolved"]["parameters"]
    assert 0 < parameters["trained"] < parameters["total"] / 2
    # What was predicted with the adapters is what the merged model predicts.
    before = (run / "valid_results.txt").read_text()
    assert invoke(program, [*argv, "--test_only"]) == 0
    assert (run / "valid_results.txt").read_text() == before
    refuse(program, capsys, arguments(tmp_path, "a", lora_rank=0), "--lora_rank=0")
    argv = arguments(tmp_path, "a", lora_rank=2, compile=True)
    refuse(program, capsys, argv, "--lora_rank goes without --compile")
    argv = arguments(tmp_path, "a", lora_rank=2, freeze="encoder")
    refuse(program, capsys, argv, "--freeze=encoder: freezes all adapters of --lora_rank")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    refuse(program, capsys, arguments(tmp_path, "a", lora_rank=2), "peft is not installed")
    assert not (tmp_path / "a" / "run_config.json").exists()
