"""Padding to ``geometry.bucket_length`` gives the results of padding to the maximum."""

import itertools

import pytest

from funnel.config.geometry import bucket_length
from funnel.config.model import ModelConfig

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from funnel_torch import FunnelModel

MAX_LENGTH = 40
SWITCHES = list(itertools.product((True, False), (True, False), (2, 3)))


def pad(ids, length):
    padding = torch.zeros(1, length - ids.shape[1], dtype=torch.long)
    mask = torch.cat([torch.ones_like(ids), padding], 1)
    segments = torch.cat([torch.full_like(ids[:, :1], 2), torch.zeros_like(mask[:, 1:])], 1)
    return torch.cat([ids, padding], 1), mask, segments


@pytest.mark.parametrize(("separate_cls", "truncate_seq", "pooling_size"), SWITCHES)
def test_bucket_length_changes_nothing(separate_cls, truncate_seq, pooling_size):
    config = ModelConfig(
        vocab_size=30, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, init_std=0.3,
        block_size="1_2_1", decoder_size="1", separate_cls=separate_cls,
        truncate_seq=truncate_seq, pooling_size=pooling_size,
    )  # fmt: skip
    torch.manual_seed(0)
    model = FunnelModel(config).eval()
    shorter = 0
    for num_tokens in (*range(2, 20), 33, 38, 40):
        ids = torch.randint(1, 30, (1, num_tokens))
        length = bucket_length(num_tokens, MAX_LENGTH, config)
        assert num_tokens <= length <= MAX_LENGTH
        shorter += length < MAX_LENGTH
        with torch.no_grad():
            short = model(*pad(ids, length))
            long = model(*pad(ids, MAX_LENGTH))
        real = slice(None), slice(0, num_tokens)
        torch.testing.assert_close(
            short.last_hidden_state[real], long.last_hidden_state[real], atol=1e-5, rtol=1e-5
        )
        cls = slice(None), 0
        torch.testing.assert_close(
            short.encoder_last_hidden_state[cls], long.encoder_last_hidden_state[cls],
            atol=1e-5, rtol=1e-5,
        )  # fmt: skip
    assert shorter > 10


def test_less_padding_would_change_the_result():
    """The rule is tight where truncation drops a position: shorter padding changes the result."""
    config = ModelConfig(
        vocab_size=30, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, init_std=0.3,
        block_size="1_1_1",
    )  # fmt: skip
    torch.manual_seed(0)
    model = FunnelModel(config).eval()
    ids = torch.randint(1, 30, (1, 8))
    length = bucket_length(8, MAX_LENGTH, config)
    with torch.no_grad():
        short = model(*pad(ids, length - 4)).encoder_last_hidden_state[:, 0]
        long = model(*pad(ids, MAX_LENGTH)).encoder_last_hidden_state[:, 0]
    assert (short - long).abs().max() > 1e-3
