"""Parameters and FLOPs: the formula term by term, the published ratios, the printed table."""

import json
import subprocess
import sys
from dataclasses import astuple

import pytest

import repo_layout
from funnel.config.model import ModelConfig
from funnel.flops import (
    PUBLISHED,
    load_sizes,
    model_cost,
    paper_ratio,
    parameter_count,
)
from funnel.utils.errors import ConfigError

COMMON = repo_layout.ROOT / "common"
SIZES = load_sizes()
MILLIONS = {
    "L12H768": (108.9, 108.9),
    "L24H1024": (334.1, 334.1),
    "B4-4-4H768": (115.6, 131.0),
    "B6-3x2-3x2H768": (115.6, 131.0),
    "B6-6-6H768": (161.7, 177.1),
    "B8-8-8H1024": (358.8, 386.1),
    "B10-10-10H1024": (440.7, 468.0),
}


def encoder_ratio(config, length):
    base = model_cost(SIZES["L12H768"], length, 64).encoder_total
    return model_cost(config, length, 64).encoder_total / base


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters(name):
    counts = parameter_count(SIZES[name], decoder=False), parameter_count(SIZES[name])
    assert tuple(round(count / 1e6, 1) for count in counts) == MILLIONS[name]


@pytest.mark.parametrize(
    ("name", "at_128", "at_512"),
    [
        ("B4-4-4H768", 0.605, 0.629),
        ("B6-6-6H768", 0.901, 0.936),
        ("B6-3x2-3x2H768", 0.901, 0.936),
        ("B8-8-8H1024", 2.107, 2.129),
        ("B10-10-10H1024", 2.629, 2.655),
    ],
)
def test_full_accounting_at_batch_64(name, at_128, at_512):
    measured = encoder_ratio(SIZES[name], 128), encoder_ratio(SIZES[name], 512)
    assert measured == pytest.approx((at_128, at_512), abs=6e-4)


def test_cached_distance_table():
    base = SIZES["L12H768"]
    for length, ratio in ((128, 0.899), (512, 0.934)):
        cost = model_cost(SIZES["B6-6-6H768"], length, 64)
        cached = cost.encoder_total - sum(layer.position_table for layer in cost.encoder)
        assert cached / model_cost(base, length).encoder_total == pytest.approx(ratio, abs=6e-4)


def test_factorized_costs_more():
    factorized = SIZES["B6-6-6H768"].replace(rel_attn_type="factorized")
    ratios = encoder_ratio(factorized, 128), encoder_ratio(factorized, 512)
    assert ratios == pytest.approx((1.17, 1.75), abs=5e-3)


def test_papers_ratios_round_to_the_published():
    exact = {"B4-4-4H768": 0.583, "B6-6-6H768": 0.875, "B6-3x2-3x2H768": 0.875}
    exact |= {"B8-8-8H1024": 2.074, "B10-10-10H1024": 2.593, "L24H1024": 3.556, "L12H768": 1.0}
    for name, ratio in exact.items():
        assert paper_ratio(SIZES[name]) == pytest.approx(ratio, abs=5e-4)
        assert paper_ratio(SIZES[name]) == pytest.approx(PUBLISHED[name], abs=8e-3)


@pytest.mark.parametrize("length", [8, 31])
@pytest.mark.parametrize("pool_q_only", [True, False])
def test_layer_formula(length, pool_q_only):
    config = ModelConfig(
        vocab_size=10, d_model=64, d_embed=64, n_head=4, d_head=16, d_inner=256,
        block_size="1_2", decoder_size="1", pool_q_only=pool_q_only,
    )  # fmt: skip
    pooled = 1 + (length - 2 + 1) // 2
    first = (pooled, length, 2) if pool_q_only else (pooled, pooled, 1)
    expected = []
    for queries, keys, stride in [(length, length, 1), first, (pooled, pooled, 1)]:
        wide, distances = config.d_model, stride * queries + keys
        expected.append(
            20 * queries * wide**2
            + 4 * keys * wide**2
            + 4 * queries * keys * wide
            + 2 * queries * distances * wide
            + 2 * distances * wide**2 / 8
            + 4 * queries * wide
        )
    cost = model_cost(config, length, batch_size=8)
    assert [layer.total for layer in cost.encoder] == expected
    assert [layer.total for layer in cost.decoder] == expected[:1]
    assert cost.total == pytest.approx(sum(expected) + expected[0])


def test_terms_that_come_and_go():
    config = SIZES["B4-4-4H768"]
    without = model_cost(config, 16, segments=False).encoder[0]
    assert without.segment == 0
    plain = model_cost(config.replace(rel_attn_type="null"), 16).encoder[0]
    assert (plain.position, plain.position_table, plain.segment) == (0, 0, 0)
    assert astuple(plain)[:4] == astuple(without)[:4]
    narrow = model_cost(config.replace(d_embed=128), 16)
    assert narrow.input_projection == 2 * 16 * 128 * 768
    assert narrow.encoder_total - narrow.input_projection == pytest.approx(
        model_cost(config, 16).encoder_total
    )


def test_sizes_by_file(tmp_path):
    own = tmp_path / "mine" / "net_config.json"
    own.parent.mkdir()
    own.write_text(json.dumps(SIZES["B4-4-4H768"].to_net_config()))
    assert list(load_sizes([own])) == ["mine"]
    with pytest.raises(ConfigError, match="missing.json does not exist"):
        load_sizes([tmp_path / "missing.json"])


def run_program(*arguments):
    command = [sys.executable, "-m", "funnel.flops", *arguments]
    return subprocess.run(command, cwd=COMMON, capture_output=True, text=True, check=False)


def test_printed_table():
    result = run_program("--seq_len", "128")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}
    for name, published in PUBLISHED.items():
        assert float(rows[name][-1]) == published
        assert rows[name][1:3] == [f"{count:.1f}" for count in MILLIONS[name]]
    assert rows["B6-6-6H768"][4] == "0.901"
    assert "paper's count" in result.stdout


def test_bad_arguments_are_one_line():
    result = run_program("no-such-config.json")
    assert result.returncode == 2
    assert result.stderr == "error: model config no-such-config.json does not exist\n"
    assert run_program("--seq_len", "0").returncode == 2
