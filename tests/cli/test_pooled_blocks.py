"""benchmarks/pooled_blocks.py: its measurements, its variants, and a run of seconds."""

import json
import sys

import pytest

torch = pytest.importorskip("torch")

import repo_layout

sys.path.append(str(repo_layout.ROOT / "benchmarks"))

import pooled_blocks
from funnel.config.model import ModelConfig
from funnel.utils.errors import DataError
from funnel_torch.models.modeling import FunnelModel
from pooling.measure import (
    block_parameters,
    describe_states,
    measure_update,
    observed,
    skip_share,
    without_pooled_states,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def funnel():
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_embed": 8, "n_head": 2, "d_head": 4, "d_inner": 16}
    blocks = {"block_size": "1_2", "decoder_size": "1", "vocab_size": 30}
    return FunnelModel(ModelConfig(**sizes, **blocks)).eval()


def test_descriptions_of_states():
    torch.manual_seed(0)
    equal = torch.randn(1, 9, 6).expand(4, 9, 6)
    assert describe_states(equal)["texts"] == pytest.approx(1.0)
    assert describe_states(equal.transpose(0, 1))["positions"] == pytest.approx(1.0)
    line = torch.randn(4, 9, 1) * torch.randn(6)
    assert describe_states(line)["rank"] == pytest.approx(1.0)
    noise = describe_states(torch.randn(64, 33, 6))
    assert noise["rank"] > 5.9 and abs(noise["texts"]) < 0.05


def test_blocks_and_their_updates(funnel):
    blocks = block_parameters(funnel)
    sizes = {name: sum(p.numel() for p in weights) for name, weights in blocks.items()}
    assert sizes["block 2"] == 2 * sizes["block 1"] == 2 * sizes["decoder"]
    for weights in blocks.values():
        for weight in weights:
            weight.grad = torch.ones_like(weight)

    def halve():
        with torch.no_grad():
            for weight in blocks["block 2"]:
                weight.mul_(0.5)

    norms = measure_update(blocks, halve)
    assert norms["block 2"]["update"] == pytest.approx(0.5) and norms["block 1"]["update"] == 0
    size = sum(float(p.detach().square().sum()) for p in blocks["block 1"]) ** 0.5
    assert norms["block 1"]["gradient"] == pytest.approx(sizes["block 1"] ** 0.5 / size)


def test_pooled_states_can_be_taken_away(funnel):
    ids = torch.randint(5, 30, (3, 16))
    with torch.no_grad(), observed(funnel) as seen:
        complete = funnel(ids).last_hidden_state
        share = skip_share(funnel, seen.encoded)
        with without_pooled_states(funnel):
            without = funnel(ids).last_hidden_state
        assert torch.equal(funnel(ids).last_hidden_state, complete)
    assert seen.blocks["block 1"].shape == (3, 16, 8) and seen.blocks["block 2"].shape == (3, 8, 8)
    assert 0 < share < 1 and not torch.allclose(complete, without)


def test_models_that_share_parameters_differ_in_pooling_alone(funnel):
    unpooled = FunnelModel(funnel.config.replace(pooling_size=1, truncate_seq=False)).eval()
    pooled_blocks.share_parameters(funnel, unpooled)
    assert [id(p) for p in funnel.parameters()] == [id(p) for p in unpooled.parameters()]
    ids = torch.randint(5, 30, (3, 16))
    assert unpooled(ids).encoder_last_hidden_state.shape == (3, 16, 8)


def test_dropout_of_the_skip_connection_ends(funnel):
    ids = torch.randint(5, 30, (3, 16))
    before = funnel(ids).last_hidden_state
    with pooled_blocks.skip_dropout(funnel, 0.9):
        assert not torch.equal(funnel(ids).last_hidden_state, before)
    with pooled_blocks.skip_dropout(funnel, 0.0):
        assert torch.equal(funnel(ids).last_hidden_state, before)
    assert torch.equal(funnel(ids).last_hidden_state, before)


def test_runs_are_kept_and_continued(tmp_path, monkeypatch, capsys):
    output = tmp_path / "results.json"
    flags = ["--steps=8", "--batch_size=2", "--seq_len=32", "--megabytes=0.1", "--seeds=1"]
    monkeypatch.setattr(pooled_blocks.corpora, "find_data", lambda given: None)

    def call(*more):
        arguments = ["pooled_blocks.py", *flags, f"--output={output}", *more]
        monkeypatch.setattr(sys, "argv", arguments)
        pooled_blocks.main()
        return capsys.readouterr().out

    out = call("--only=plain,stack_late,skip_dropout,pooled_lr,electra,large_batch")
    assert "electra-seed1: loss" in out and "a Transformer for half of the steps" in out
    runs = {run["run"]: run for run in json.loads(output.read_text())["runs"]}
    assert len(runs) == 6 and output.with_suffix(".png").stat().st_size > 10_000
    assert [row["step"] for row in runs["plain-seed1"]["measurements"]] == list(range(9))
    assert runs["large_batch-seed1"]["measurements"][-1]["step"] == 2
    first = [runs[f"{name}-seed1"]["measurements"][0]["loss"] for name in ("plain", "pooled_lr")]
    assert first[0] == first[1]
    assert "plain-seed1: loss" not in call("--only=plain")
    with pytest.raises(DataError, match="--only=nosuch: none of plain"):
        call("--only=nosuch")
