"""Target sampling: statistics per strategy, a literal reference, statelessness, edge cases."""

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import repo_layout
from funnel.config.model import ModelConfig
from funnel.pretraining.masking import (
    SAMPLE_STRATEGIES,
    Masker,
    MaskingConfig,
    record_generator,
    sample_randoms,
    target_mapping,
    truncation_stride,
)
from funnel.pretraining.spans import span_lengths
from funnel.utils.errors import ConfigError, DataError
from masking_reference import (
    RESERVED,
    SPECIAL,
    VOCAB_SIZE,
    mean_run,
    random_records,
    reference_masking,
    take_row,
)

T, P = 512, 85
STRATEGIES = pytest.mark.parametrize("strategy", SAMPLE_STRATEGIES)


def generators(count, epoch=0, seed=11):
    return [record_generator(seed, epoch, index) for index in range(count)]


def masker_for(**settings):
    return Masker(MaskingConfig(**settings), SPECIAL, VOCAB_SIZE)


def many(strategy, count=3000, length=T, num_predict=P, tokens_per_word=1.3):
    """Return records, their boundaries and the masked batch."""
    records = random_records(np.random.default_rng(5), count, length, tokens_per_word)
    inputs, segments, boundaries = records
    masker = masker_for(seq_len=length, num_predict=num_predict, sample_strategy=strategy)
    return inputs, boundaries, masker.mask(inputs, segments, boundaries, generators(count))


def is_near(share, expected, trials, deviations=4.5):
    """Whether a fraction of independent trials is within the binomial error of its expectation."""
    return abs(share - expected) < deviations * np.sqrt(expected * (1 - expected) / trials)


# Statistics over thousands of sequences


@STRATEGIES
def test_every_record_has_exactly_num_predict_targets_and_none_is_special(strategy):
    inputs, _, batch = many(strategy)
    assert (batch.is_target.sum(1) == P).all() and batch.target_mask.all()
    assert not np.isin(batch.target, list(SPECIAL.functional)).any()
    assert (np.diff(batch.target_positions, axis=1) > 0).all()
    assert np.array_equal(np.take_along_axis(inputs, batch.target_positions, 1), batch.target)
    rows = np.arange(len(inputs))[:, None]
    expected = np.zeros_like(batch.is_target)
    expected[rows, batch.target_positions] = True
    assert np.array_equal(expected, batch.is_target)


@STRATEGIES
def test_of_the_targets_80_percent_are_masked_10_kept_10_random(strategy):
    inputs, _, batch = many(strategy)
    seen = np.take_along_axis(batch.masked_input, batch.target_positions, 1)
    masked, random = seen == SPECIAL.mask_id, ~np.isin(seen, [SPECIAL.mask_id])
    random &= seen != batch.target
    text = VOCAB_SIZE - len(RESERVED)
    # A random id is the original one by chance in 1 of 51 cases; for unk it never is.
    same = 0.1 / text * (batch.target != SPECIAL.unk_id).mean()
    assert is_near(masked.mean(), 0.8, seen.size)
    assert is_near(random.mean(), 0.1 - same, seen.size)
    assert is_near((~masked & ~random).mean(), 0.1 + same, seen.size)
    assert not np.isin(seen[random], list(RESERVED)).any()
    counts = np.bincount(seen[random], minlength=VOCAB_SIZE)[len(RESERVED) :]
    assert all(is_near(count / random.sum(), 1 / text, random.sum()) for count in counts)
    assert np.array_equal(batch.masked_input[~batch.is_target], inputs[~batch.is_target])
    # Treatments of neighbouring targets are independent.
    assert is_near((masked[:, 1:] & masked[:, :-1]).mean(), 0.64, masked[:, 1:].size)


def test_ratios_are_taken_as_given():
    inputs, segments, _ = random_records(np.random.default_rng(0), 200, 64)
    for leak, rand, hidden in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.3, 0.2, 0.5)):
        masker = masker_for(seq_len=64, num_predict=20, leak_ratio=leak, rand_ratio=rand)
        batch = masker.mask(inputs, segments, None, generators(200))
        seen = np.take_along_axis(batch.masked_input, batch.target_positions, 1)
        if hidden in (0, 1):
            assert (seen == SPECIAL.mask_id).mean() == hidden
        assert is_near((seen == SPECIAL.mask_id).mean(), hidden, seen.size) or hidden in (0, 1)
        if leak == 1:
            assert np.array_equal(batch.masked_input, inputs)


def test_single_tokens_are_uniform_over_positions():
    inputs, segments, _ = random_records(np.random.default_rng(0), 1, 64)
    count, num_predict = 20000, 10
    masker = masker_for(seq_len=64, num_predict=num_predict)
    repeated = np.repeat(inputs, count, axis=0)
    batch = masker.mask(repeated, np.repeat(segments, count, 0), None, generators(count))
    allowed = np.flatnonzero(~np.isin(inputs[0], list(SPECIAL.functional)))
    share = batch.is_target.mean(0)
    assert share[allowed].sum() == pytest.approx(num_predict)
    assert all(is_near(share[p], num_predict / len(allowed), count) for p in allowed)
    # Neither do neighbours attract each other: the chance of a pair is that of any two.
    pairs = (batch.is_target[:, 1:] & batch.is_target[:, :-1])[:, 5]
    both = num_predict * (num_predict - 1) / len(allowed) / (len(allowed) - 1)
    assert {5, 6} <= set(allowed) and is_near(pairs.mean(), both, count)


@pytest.mark.parametrize(("shortest", "longest"), [(1, 5), (2, 4), (3, 3)])
def test_span_lengths_follow_their_distribution_before_clipping(shortest, longest):
    config = MaskingConfig(seq_len=T, num_predict=P)
    lengths = span_lengths(sample_randoms(config, generators(2000)).length, shortest, longest)
    weights = 1 / (np.arange(shortest, longest + 1) + 1)
    assert lengths.min() == shortest and lengths.max() == longest
    for n, expected in enumerate(weights / weights.sum(), start=shortest):
        assert expected == 1 or is_near((lengths == n).mean(), expected, lengths.size)


@pytest.mark.parametrize("unit", ["token_span", "word_span"])
def test_spans_keep_apart(unit):
    """Spans in separate slots touch less often than spans at independent random positions."""
    rng = np.random.default_rng(3)
    for length, num_predict, expected in ((64, 10, 2.2), (T, P, 2.42)):
        # Words of one token, so that both strategies count alike.
        _, _, batch = many(unit, 1500, length, num_predict, tokens_per_word=1.0)
        naive = np.zeros((300, length), bool)
        for row in naive:
            while row.sum() < num_predict:
                n = span_lengths(rng.random(1), 1, 5)[0]
                begin = rng.integers(1, length - n)
                row[begin : begin + min(n, num_predict - row.sum())] = True
        assert mean_run(batch.is_target) == pytest.approx(expected, abs=0.06)
        assert mean_run(naive) > mean_run(batch.is_target) + 0.2


def test_span_targets_reach_everywhere():
    """All positions are equally likely: the end of a record has as many targets as its middle."""
    for strategy in ("token_span", "word_span"):
        _, _, batch = many(strategy)
        parts = np.array_split(batch.is_target[:, 1:-1].mean(0), 8)
        assert [part.mean() for part in parts] == pytest.approx([P / T] * 8, rel=0.2), strategy


# Word spans may hold too little text; single tokens then make up for it.
@pytest.mark.parametrize(("strategy", "share"), [("whole_word", 1.0), ("word_span", 0.95)])
def test_words_stay_whole_but_for_the_one_that_exceeds_num_predict(strategy, share):
    inputs, boundaries, batch = many(strategy, 500, tokens_per_word=1.6)
    is_text = ~np.isin(inputs, list(SPECIAL.functional))
    broken = []
    for text, targets, edges in zip(is_text, batch.is_target, boundaries, strict=True):
        sizes = np.add.reduceat(text, edges[:-1], dtype=int)
        hidden = np.add.reduceat(targets & text, edges[:-1], dtype=int)
        broken.append(((hidden > 0) & (hidden < sizes)).sum())
    assert np.mean(np.array(broken) <= 1) >= share
    assert 0.1 < np.mean(broken) < 0.5


def test_whole_words_are_uniform_over_words():
    inputs, segments, boundaries = random_records(np.random.default_rng(4), 1, 64, 1.7)
    count, num_words = 20000, len(boundaries[0]) - 1
    masker = masker_for(seq_len=64, num_predict=5, sample_strategy="whole_word")
    batch = masker.mask(
        np.repeat(inputs, count, 0), np.repeat(segments, count, 0), boundaries * count,
        generators(count),
    )  # fmt: skip
    begun = batch.is_target.mean(0)[boundaries[0][:-1]]
    # A word is begun if it comes before five tokens are full: almost the same for all sizes.
    assert begun == pytest.approx(np.full(num_words, begun.mean()), rel=0.12)


# Against the literal transcription


@pytest.mark.parametrize("stride", [0, 1, 4])
@pytest.mark.parametrize("padded", [False, True])
@STRATEGIES
def test_equals_one_record_at_a_time_with_the_same_random_numbers(strategy, padded, stride):
    rng = np.random.default_rng([stride, padded])
    for num_predict in (1, 6, 20, 36):  # 36 of 40: spans overlap, and truncated records lack text
        config = MaskingConfig(
            40, num_predict, strategy, 0.2, 0.3, 2, 4, max_word=9, truncate_stride=stride
        )
        inputs, segments, boundaries = random_records(rng, 60, 40, 1.4, padded)
        randoms = sample_randoms(config, generators(60, epoch=num_predict))
        batch = Masker(config, SPECIAL, VOCAB_SIZE).apply(inputs, segments, boundaries, randoms)
        for row in range(60):
            origin, masked, targets = reference_masking(
                inputs[row], boundaries[row], config, take_row(randoms, row)
            )
            assert np.flatnonzero(batch.is_target[row]).tolist() == targets
            assert batch.origin_input[row].tolist() == origin
            assert batch.masked_input[row].tolist() == masked
            filled = batch.target_mask[row]
            assert filled.tolist() == [True] * len(targets) + [False] * (num_predict - len(targets))
            assert batch.target_positions[row][filled].tolist() == targets
            assert batch.target[row][filled].tolist() == inputs[row][targets].tolist()
            assert not batch.target_positions[row][~filled].any()
            assert not batch.target[row][~filled].any()


# The rest of the batch


def test_masks_say_what_is_hidden_and_what_is_padding():
    inputs, segments, boundaries = random_records(np.random.default_rng(1), 50, 40, padded=True)
    batch = masker_for(seq_len=40, num_predict=9).mask(inputs, segments, boundaries, generators(50))
    assert np.array_equal(batch.attention_mask, inputs != SPECIAL.pad_id)
    hidden = batch.masked_input == SPECIAL.mask_id
    assert np.array_equal(batch.mlm_attention_mask, batch.attention_mask & ~hidden)
    assert hidden.any() and not (hidden & ~batch.is_target).any()
    assert np.array_equal(batch.origin_input, inputs)
    assert np.array_equal(batch.token_type_ids, segments)
    ids = ("masked_input", "origin_input", "token_type_ids", "target", "target_positions")
    assert batch.noise_seeds.shape == (50,) and batch.corrupt == ()
    for name, array in zip(batch._fields[:-2], batch, strict=False):
        assert array.dtype == (np.int64 if name in ids else bool), name
        assert array.shape == (50, 9 if name.startswith("target") else 40), name


def test_target_mapping_is_one_hot_and_zero_in_empty_slots():
    positions, mask = np.array([[1, 3, 0], [0, 2, 3]]), np.array([[1, 1, 0], [1, 1, 1]], bool)
    mapping = target_mapping(positions, mask, 4)
    assert mapping.shape == (2, 3, 4) and mapping.dtype == np.float32
    assert mapping[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert mapping[1].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_a_truncated_record_ends_in_sep_and_padding():
    inputs, segments, boundaries = random_records(np.random.default_rng(1), 400, 32)
    for strategy in SAMPLE_STRATEGIES:
        masker = masker_for(seq_len=32, num_predict=10, sample_strategy=strategy, truncate_stride=4)
        batch = masker.mask(inputs, segments, boundaries, generators(400))
        assert np.array_equal(batch.origin_input[:, :28], inputs[:, :28])
        assert (batch.origin_input[:, 28:] == [SPECIAL.sep_id] + [SPECIAL.pad_id] * 3).all()
        assert np.array_equal(batch.masked_input[:, 28:], batch.origin_input[:, 28:])
        assert np.array_equal(batch.token_type_ids, segments)
        assert batch.target_mask.all() and not batch.is_target[:, 28:].any()
        assert batch.is_target[:, 27].any()
        assert (batch.attention_mask == (np.arange(32) <= 28)).all()


def test_the_stride_of_truncation_follows_from_the_model():
    model = ModelConfig(vocab_size=9, block_size="2_2_2")
    assert truncation_stride(model) == 4
    assert truncation_stride(model.replace(pooling_size=3)) == 9
    assert truncation_stride(model.replace(block_size="2")) == 1
    assert truncation_stride(model.replace(truncate_seq=False)) == 0
    assert truncation_stride(model.replace(separate_cls=False)) == 0


# Statelessness


@STRATEGIES
def test_a_record_is_masked_alike_in_any_batch_and_differently_every_epoch(strategy):
    inputs, segments, boundaries = random_records(np.random.default_rng(2), 12, 64)
    masker = masker_for(seq_len=64, num_predict=10, sample_strategy=strategy)
    together = masker.mask(inputs, segments, boundaries, generators(12))
    for rows in ([7], [11, 3, 0]):
        some = pickle.loads(pickle.dumps(masker)).mask(
            inputs[rows],
            segments[rows],
            [boundaries[row] for row in rows],
            [record_generator(11, 0, row) for row in rows],
        )
        for part, all_rows in zip(some[:-1], together[:-1], strict=True):
            assert np.array_equal(part, all_rows[rows])
    for other in (generators(12, epoch=1), generators(12, seed=12)):
        assert (
            masker.mask(inputs, segments, boundaries, other).is_target != together.is_target
        ).any()
    again = masker.mask(inputs[:1].repeat(3, 0), segments[:3], boundaries[:1] * 3, generators(3))
    assert (again.is_target[0] != again.is_target[1]).any()


def test_streams_differ_in_every_number_and_stay_the_same_for_ever():
    """The values are pinned: a run resumed under a newer version must see the same masks."""
    numbers = ((1, 2, 3), (3, 2, 1), (2, 1, 3), (1, 2, 4), (1, 2, 3 + 2**32), (1 + 2**40, 2, 3))
    firsts = [record_generator(*three).random() for three in numbers]
    assert len(set(firsts)) == len(numbers)
    assert record_generator(*np.array([1, 2, 3])).random() == firsts[0]
    assert firsts[0] == 0.568162749654485


def test_another_process_draws_the_same():
    script = (
        f"import json, sys; sys.path[:0] = {[str(repo_layout.ROOT / 'common')]!r}\n"
        "from funnel.pretraining.masking import record_generator\n"
        "print(json.dumps([record_generator(1, 2, i).random(3).tolist() for i in range(4)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    here = [record_generator(1, 2, index).random(3).tolist() for index in range(4)]
    assert json.loads(done.stdout) == here


# Edges


def mask_one(ids, boundary, strategy, **settings):
    masker = masker_for(seq_len=len(ids), sample_strategy=strategy, **settings)
    segments = np.zeros((1, len(ids)), int)
    return masker.mask(np.array([ids]), segments, [np.array(boundary)], generators(1))


CLS, SEP, PAD = SPECIAL.cls_id, SPECIAL.sep_id, SPECIAL.pad_id


@STRATEGIES
@pytest.mark.parametrize("epoch", range(20))
def test_fewer_tokens_than_num_predict_are_all_targets(strategy, epoch):
    ids = [CLS, 20, 21, SEP, 22, SEP, PAD, PAD, PAD, PAD]
    masker = masker_for(seq_len=10, num_predict=6, sample_strategy=strategy)
    batch = masker.mask(
        np.array([ids]), np.zeros((1, 10)), [np.array([1, 4, 10])], generators(1, epoch)
    )
    assert batch.target.tolist() == [[20, 21, 22, 0, 0, 0]]
    assert batch.target_mask.tolist() == [[True] * 3 + [False] * 3]
    assert batch.target_positions.tolist() == [[1, 2, 4, 0, 0, 0]]
    assert np.flatnonzero(batch.is_target[0]).tolist() == [1, 2, 4]


@STRATEGIES
def test_one_word_and_no_words(strategy):
    one = mask_one([CLS, 20, 21, 22, 23, 24, SEP, PAD], [1, 8], strategy, num_predict=3)
    assert one.target_mask.all() and not one.is_target[0, [0, 6, 7]].any()
    if strategy == "whole_word":
        assert one.target_positions.tolist() == [[1, 2, 3]]
    none = mask_one([CLS, 20, 21, 22, 23, 24, SEP, PAD], [8], strategy, num_predict=3)
    assert none.target_mask.all() and not none.is_target[0, [0, 6, 7]].any()


@STRATEGIES
def test_no_text_gives_no_targets(strategy):
    for ids in ([CLS, SEP] + [PAD] * 6, [PAD] * 8, [CLS, *range(1, 9)][:8]):
        batch = mask_one(ids, [8], strategy, num_predict=3)
        assert not batch.is_target.any() and not batch.target_mask.any()
        assert batch.masked_input.tolist() == [ids]


def test_no_records_give_an_empty_batch():
    for strategy in SAMPLE_STRATEGIES:
        masker = masker_for(seq_len=8, num_predict=3, sample_strategy=strategy)
        batch = masker.mask(np.zeros((0, 8)), np.zeros((0, 8)), [], [])
        assert batch.masked_input.shape == (0, 8) and batch.target.shape == (0, 3)


def test_unk_is_text_but_never_drawn():
    ids = [CLS] + [SPECIAL.unk_id] * 6 + [SEP]
    batch = mask_one(ids, [1, 8], "single_token", num_predict=3, leak_ratio=0, rand_ratio=1)
    assert batch.target.tolist() == [[SPECIAL.unk_id] * 3]
    assert (np.take_along_axis(batch.masked_input, batch.target_positions, 1) > 8).all()


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_predict": 13}, "num_predict: 13 should be at least 1 and less than seq_len - 3 ="),
        ({"num_predict": 0}, "num_predict: 0"),
        ({"num_predict": None}, "num_predict: None"),
        ({"sample_strategy": "words"}, "sample_strategy: 'words' is none of single_token"),
        ({"leak_ratio": -0.1}, "leak_ratio: -0.1 should be from 0 to 1"),
        ({"rand_ratio": 1.5}, "rand_ratio: 1.5"),
        ({"leak_ratio": 0.6, "rand_ratio": 0.6}, "leak_ratio: 0.6 and rand_ratio 0.6"),
        ({"min_tok": 0}, "min_tok: 0 should be from 1 to max_tok 5"),
        ({"min_tok": 6}, "min_tok: 6"),
        ({"max_word": 0}, "min_word: 1 should be from 1 to max_word 0"),
        ({"truncate_stride": 16}, "truncate_seq: stride 16 leaves nothing of seq_len 16"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ConfigError) as error:
        MaskingConfig(**{"seq_len": 16, "num_predict": 4, **settings})
    assert str(error.value).startswith(message)


def test_the_largest_num_predict_is_fine_and_settings_are_frozen():
    config = MaskingConfig(16, 12)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_predict = 3


def test_a_vocabulary_that_does_not_fit_is_an_error():
    config = MaskingConfig(8, 2)
    with pytest.raises(ConfigError, match="vocab_size: 8 leaves out special id 8"):
        Masker(config, SPECIAL, 8)
    with pytest.raises(ConfigError, match="vocab_size: 9 holds nothing but special symbols"):
        Masker(config, SPECIAL, 9)


def test_seeds_are_checked():
    for numbers, key in (((-1, 0, 0), "seed"), ((0, -1, 0), "epoch"), ((0, 0, 1 << 64), "index")):
        with pytest.raises(ConfigError, match=f"{key}: .* should be from 0 to"):
            record_generator(*numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.full((1, 9), 20)}, r"records \[1, 9\] do not have seq_len 8"),
        ({"inputs": np.full((1, 8), VOCAB_SIZE)}, "ids from 60 to 60, the vocabulary only 0 to 59"),
        ({"inputs": np.full((1, 8), -1)}, "ids from -1"),
        ({"boundaries": None}, "1 records come without their word boundaries"),
        ({"boundaries": [np.array([1, 7])]}, "record 0 of the batch: word boundaries should rise"),
        ({"boundaries": [np.array([3, 3, 8])]}, "record 0"),
        ({"boundaries": [np.array([-1, 8])]}, "record 0"),
        ({"boundaries": [np.array([], int)]}, "record 0"),
    ],
)
def test_a_record_that_does_not_fit_is_an_error(change, message):
    masker = masker_for(seq_len=8, num_predict=2, sample_strategy="whole_word")
    record = {"inputs": np.full((1, 8), 20), "boundaries": [np.array([1, 8])], **change}
    with pytest.raises(DataError, match=message):
        masker.mask(record["inputs"], np.zeros((1, 8)), record["boundaries"], generators(1))
