"""What a run takes from its files where the command line leaves it open, in both backends."""

import logging

import pytest

from funnel.checkpoints.vocabulary import fit_vocabulary
from funnel.config.heads import PretrainingConfig
from funnel.config.inputs import RaceConfig
from funnel.config.model import ModelConfig
from funnel.config.pretraining import TargetSettings
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings.pretrain import PretrainSettings

SIZES = {"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32}
CONFIG = ModelConfig(vocab_size=9, block_size="1_1", decoder_size="1", **SIZES)
VOCABULARY = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "a", "b"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return get_tokenizer("word_piece", str(path))


@pytest.fixture
def tf_config(tokenizer):
    pytest.importorskip("absl")
    from funnel_tf.cli.configs import model_config
    from tf_program_runs import parse_settings

    def build(*arguments, program="classifier"):
        return model_config(parse_settings(program, "--do_train", *arguments), tokenizer)

    return build


@pytest.mark.parametrize("save", ["to_hf", "to_net_config"])
def test_tensorflow_finds_the_config_of_the_weights(tmp_path, tf_config, save, caplog):
    import json

    name = "config.json" if save == "to_hf" else "net_config.json"
    values = getattr(CONFIG, save)()
    (tmp_path / name).write_text(json.dumps(values))
    with caplog.at_level(logging.INFO):
        config = tf_config(f"--init_checkpoint={tmp_path}", "--dropout=0.3")
    assert (config.d_model, config.block_size, config.dropout) == (16, "1_1", CONFIG.dropout)
    assert name in caplog.text and "--dropout is not used" in caplog.text
    inside = tf_config(f"--init_checkpoint={tmp_path}/model.ckpt", "--overwrite_keys=dropout")
    assert inside.d_model == 16
    by_flags = tf_config(f"--init_checkpoint={tmp_path}", "--d_model=32", "--n_head=4")
    assert (by_flags.d_model, by_flags.block_size) == (32, "3_3_3")


def test_a_resumed_run_has_its_own_config(tmp_path, tf_config):
    CONFIG.save_net_config(tmp_path / "net_config.json")
    gone = tmp_path / "removed" / "model.ckpt"
    assert tf_config(f"--init_checkpoint={gone}", f"--model_dir={tmp_path}").d_model == 16


def test_random_weights_fit_the_vocabulary(tmp_path, tf_config, caplog):
    path = tmp_path / "net_config.json"
    for size, expected in ((4, 9), (16, 16), (30522, 9)):
        config = CONFIG.replace(vocab_size=size)
        config.save_net_config(path)
        with caplog.at_level(logging.INFO):
            assert fit_vocabulary(config, 9, "vocab.txt").vocab_size == expected
            assert tf_config(f"--model_config={path}").vocab_size == expected
    assert "vocab_size 30522 of the model's configuration becomes 9" in caplog.text


def test_a_resumed_run_keeps_its_table(tmp_path, tf_config):
    config = CONFIG.replace(vocab_size=500)
    config.save_net_config(tmp_path / "net_config.json")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    flags = (f"--model_config={tmp_path / 'net_config.json'}", f"--model_dir={tmp_path}")
    assert tf_config(*flags).vocab_size == 500


def test_a_generator_that_fits_is_suggested():
    with pytest.raises(ConfigError, match=r"width_shrink: 0\.25 makes no.*; --width_shrink=0\.5 d"):
        PretrainingConfig().generator(CONFIG)
    assert PretrainingConfig(width_shrink=0.5).generator(CONFIG).n_head == 1
    three = CONFIG.replace(d_model=12, n_head=3)
    with pytest.raises(ConfigError, match=r"; --width_shrink=0\.333334 does"):
        PretrainingConfig().generator(three)
    assert PretrainingConfig(width_shrink=0.333334).generator(three).n_head == 1


def test_both_backends_choose_as_many_targets():
    assert [TargetSettings().count(n) for n in (512, 128, 8, 2)] == [85, 21, 1, 1]
    assert TargetSettings(num_predict=7).count(512) == 7
    assert PretrainSettings().num_predict == 85
    pytest.importorskip("absl")
    from funnel_tf.cli.configs import recorded_settings
    from tf_program_runs import parse_settings

    recorded = recorded_settings(parse_settings("pretrain", "--seq_len=128"))
    assert recorded["num_predict"] == 21


def test_lengths_of_race_fit():
    assert RaceConfig().max_qa_length == 128
    assert RaceConfig(max_seq_length=132).max_qa_length == 128
    assert RaceConfig(max_seq_length=64).max_qa_length == 16
    with pytest.raises(ConfigError, match="at least 104"):
        RaceConfig(max_seq_length=64, max_qa_length=100)
    with pytest.raises(ConfigError, match="max_seq_length=4"):
        RaceConfig(max_seq_length=4)
