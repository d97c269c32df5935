"""Masking as a graph: bit-identical to the NumPy masker for the same random numbers."""

import numpy as np
import pytest

from funnel.pretraining.masking import Masker, MaskingConfig, MaskingRandoms
from masking_reference import SPECIAL, VOCAB_SIZE, mean_run, random_records
from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel_tf.data.masking import GraphMaskingRandoms, GraphRecords, mask_records, sample_randoms

pytestmark = pytest.mark.slow

STRATEGIES = ("single_token", "whole_word", "token_span", "word_span")


def _run(masker, inputs, segments, boundaries, seed):
    """Return the masked batch of a graph and the random numbers it used."""
    length = masker.config.seq_len
    edges = np.full((len(inputs), length + 1), length)
    for row, boundary in zip(edges, boundaries, strict=True):
        row[: len(boundary)] = boundary
    with tf.Graph().as_default(), tf.Session() as session:
        arrays = (np.asarray(a, np.int32) for a in (inputs, segments, edges))
        records = GraphRecords(*(tf.constant(a) for a in arrays))
        randoms = sample_randoms(masker.config, len(inputs), tf.constant(seed, tf.int64))
        batch = mask_records(masker, records, randoms)
        for name, tensor in batch.items():
            wide = [length] if "target" not in name or name == "is_target" else None
            assert tensor.shape == [len(inputs), *(wide or [masker.config.num_predict])]
        return session.run([batch, randoms])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("length", "count", "padded", "stride"),
    [(64, 11, False, 0), (64, 20, True, 4), (17, 3, False, 2), (24, 19, True, 0)],
)
def test_a_graph_masks_as_numpy_does(strategy, length, count, padded, stride):
    config = MaskingConfig(length, count, strategy, max_tok=4, truncate_stride=stride)
    masker = Masker(config, SPECIAL, VOCAB_SIZE)
    records = random_records(np.random.default_rng(length), 300, length, padded=padded)
    found, randoms = _run(masker, *records, seed=[3, 5])
    expected = masker.apply(*records, MaskingRandoms(*randoms))._asdict()
    assert found.keys() == expected.keys() - {"noise_seeds", "corrupt"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_statistics_and_exact_number_over_thousands_of_records(strategy):
    config = MaskingConfig(128, 19, strategy)
    masker = Masker(config, SPECIAL, VOCAB_SIZE)
    inputs, segments, boundaries = random_records(np.random.default_rng(0), 3000, 128)
    found, _ = _run(masker, inputs, segments, boundaries, seed=[0, 0])
    generators = [np.random.default_rng(row) for row in range(3000)]
    expected = masker.mask(inputs, segments, boundaries, generators)
    assert (found["is_target"].sum(1) == 19).all()
    assert not np.isin(inputs[found["is_target"] > 0], list(SPECIAL.functional)).any()

    def shares(masked, is_target):
        chosen = is_target > 0
        now, before = masked[chosen], inputs[chosen]
        return np.array([
            (now == SPECIAL.mask_id).mean(), (now == before).mean(), mean_run(chosen) / 10
        ])  # fmt: skip

    ours = shares(found["masked_input"], found["is_target"])
    theirs = shares(expected.masked_input, expected.is_target)
    np.testing.assert_allclose(ours, theirs, atol=0.006)
    assert ours[0] == pytest.approx(0.8, abs=0.006)


def test_masks_depend_on_seed_and_batch_number():
    masker = Masker(MaskingConfig(32, 5), SPECIAL, VOCAB_SIZE)
    records = random_records(np.random.default_rng(1), 20, 32)
    one, again, other = (
        _run(masker, *records, seed=seed)[0]["masked_input"] for seed in ([1, 1], [1, 1], [1, 2])
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any(1).mean() > 0.9


def test_random_numbers_are_uniform_and_independent():
    config = MaskingConfig(16, 4)
    with tf.Graph().as_default(), tf.Session() as session:
        randoms = session.run(sample_randoms(config, 2000, tf.constant([7, 0], tf.int64)))
    assert isinstance(randoms, GraphMaskingRandoms)
    for values in randoms:
        assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(randoms.token.ravel(), randoms.order.ravel())[0, 1]) < 0.02
