"""The vocabulary next to a checkpoint: finding it, and refusing another one."""

import pytest

from funnel.checkpoints.vocabulary import check_vocabulary, find_vocabulary
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError

CONFIG = ModelConfig(20, d_model=8, d_embed=8, n_head=1, d_head=8, d_inner=8)


def test_usual_names_come_before_the_only_other_one(tmp_path):
    assert find_vocabulary(tmp_path) is None
    (tmp_path / "vocab.mine.txt").touch()
    assert find_vocabulary(tmp_path) == tmp_path / "vocab.mine.txt"
    (tmp_path / "b.model").touch()
    assert find_vocabulary(tmp_path) is None
    (tmp_path / "vocab.txt").touch()
    assert find_vocabulary(tmp_path) == tmp_path / "vocab.txt"


def test_only_the_vocabulary_of_the_weights_may_be_smaller_than_their_table(tmp_path):
    same, copy, other = (tmp_path / name for name in ("same", "copy", "other"))
    same.write_text("a")
    copy.write_text("a")
    other.write_text("b")
    check_vocabulary(CONFIG, other, 20, pretrained=True, pretrained_vocab=same)
    check_vocabulary(CONFIG, other, 19, pretrained=False)
    check_vocabulary(CONFIG, copy, 19, pretrained=True, pretrained_vocab=same)
    for known in (same, None):
        with pytest.raises(ConfigError, match="other: 19 tokens, but .* is 20; use the vocab"):
            check_vocabulary(CONFIG, other, 19, pretrained=True, pretrained_vocab=known)
    with pytest.raises(ConfigError, match="is 20; --overwrite_keys=vocab_size"):
        check_vocabulary(CONFIG, other, 21, pretrained=False)
    with pytest.raises(ConfigError, match="is 20$"):
        check_vocabulary(CONFIG, same, 21, pretrained=True, pretrained_vocab=same)
