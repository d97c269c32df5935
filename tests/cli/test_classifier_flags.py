"""The frozen command line of the classifier: flags of the original with defaults, then ours."""

import pytest

pytest.importorskip("torch")

from funnel.cli.flags import make_parser, parse_settings
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError
from funnel_torch.cli import multigpu, processes
from funnel_torch.cli.settings.classifier import ClassifierSettings

# The shared parser of the original classifier.py and multigpu_classifier.py, with its defaults.
ORIGINAL = {
    "overwrite_keys": "",
    "model_size": "",
    "vocab_size": -1,
    "d_model": 768,
    "d_embed": 768,
    "n_head": 12,
    "d_head": 64,
    "d_inner": 3072,
    "dropout": 0.1,
    "dropatt": 0.1,
    "dropact": 0.0,
    "attn_type": "rel_shift",
    "data_dir": "",
    "output_dir": "",
    "dataset": None,
    "max_length": 128,
    "tokenizer_type": "word_piece",
    "tokenizer_path": None,
    "cased": False,
    "overwrite_data": False,
    "seg_id_a": 0,
    "seg_id_b": 1,
    "seg_id_cls": 2,
    "seg_id_pad": 0,
    "resume": False,
    "init_ckpt": "",
    "init_ckpt_config": "",
    "model_dir": "",
    "log_path": "",
    "lr": 1e-5,
    "warmup_prop": 0.10,
    "min_lr": 0.0,
    "weight_decay": 0.01,
    "clip": 1.0,
    "epochs": 10,
    "train_bsz": 16,
    "valid_bsz": 32,
    "test_bsz": 32,
    "seed": None,
    "n_log_epoch": 20,
    "test_only": False,
    "debug": False,
    "write_prediction": False,
    "device_id": 0,
    "distributed_init_method": None,
    "distributed_port": 11111,
    "distributed_world_size": None,
    "distributed_rank": 0,
    "ddp_backend": "apex",
    "distributed_backend": "nccl",
    "log_all_processes": False,
    "block_size": "4_4_4",
    "pooling_type": "mean",
    "pooling_size": 2,
    "pool_q_only": False,
    "separate_cls": False,
    # The original's default was False, which trains another model than the one released.
    "truncate_seq": None,
    "fp16": False,
    "amp_opt": "O2",
}
CHOICES = {
    "attn_type": {"rel_shift", "factorized"},
    "tokenizer_type": {"word_piece", "sent_piece"},
    "ddp_backend": {"pytorch", "apex"},
    "pooling_type": {"mean", "max"},
    "amp_opt": {"O0", "O1", "O2"},
}
OURS = {
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-6,
    "bf16": False,
    "compile": False,
    "decay_method": "poly",
    "device": "auto",
    "delimiter": None,
    "dev_file": None,
    "dev_fraction": None,
    "do_submit": False,
    "encoding": "utf-8",
    "eval_steps": None,
    "extend_to": None,
    "freeze": None,
    "grad_accum": 1,
    "id_column": None,
    "indexed_predictions": False,
    "int8": False,
    "label_column": "label",
    "linear_backend": "auto",
    "labels": None,
    "layer_decay": "gradient",
    "lr_layer_decay_rate": 1.0,
    "lora_rank": None,
    "metric": None,
    "new_head": False,
    "no_dev": None,
    "no_header": False,
    "num_workers": 0,
    "optimizer": "adamw",
    "prediction_format": "txt",
    "overwrite": False,
    "patience": None,
    "recompute_layers": False,
    "regression": False,
    "multi_label": False,
    "task_module": None,
    "label_separator": "|",
    "class_weights": None,
    "label_smoothing": 0.0,
    "balanced_sampling": False,
    "attention": "auto",
    "attention_chunk": "auto",
    "short_attention": "auto",
    "gelu": "auto",
    "distributed_timeout": 60.0,
    "save_minutes": 15.0,
    "save_steps": None,
    "seeds": "",
    "submit_dir": "",
    "test_file": None,
    "text_b_column": None,
    "text_column": "text",
    "train_file": None,
    "train_steps": None,
    "use_wd_exclusion": False,
    "verbose": False,
    "warmup_steps": None,
    "write_logits": False,
}
ALIASES = {
    "task_name": "dataset",
    "config": "init_ckpt_config",
    "model_config": "init_ckpt_config",
    "model_config_path": "init_ckpt_config",
}
SWITCH_ALIASES = {"gradient_checkpointing"}


@pytest.fixture(scope="module")
def parser():
    return make_parser(ClassifierSettings, "description")


def test_names_and_defaults_are_frozen(parser):
    assert vars(parser.parse_args([])) == ORIGINAL | OURS


def test_every_name_is_a_flag_and_there_are_no_others(parser):
    found = {o.removeprefix("--") for a in parser._actions for o in a.option_strings}
    switches = {"no-truncate_seq", "no-pool_q_only", "no-separate_cls"}
    assert found - {"-h", "help"} == {*ORIGINAL, *OURS, *ALIASES, *SWITCH_ALIASES, *switches}


def test_choices_are_frozen(parser):
    actions = {action.dest: action for action in parser._actions}
    for name, choices in CHOICES.items():
        assert set(actions[name].choices) == choices


def test_types_are_the_original_ones(parser):
    for name, default in ORIGINAL.items():
        if isinstance(default, bool) or name == "truncate_seq":
            assert getattr(parser.parse_args([f"--{name}"]), name) is True
        elif isinstance(default, int | float):
            assert getattr(parser.parse_args([f"--{name}=3"]), name) == 3
        elif name in CHOICES:
            assert getattr(parser.parse_args([f"--{name}={default}"]), name) == default
        else:
            value = getattr(parser.parse_args([f"--{name}=3"]), name)
            assert value == (3 if name in ("seed", "distributed_world_size") else "3")


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases(parser, alias, name):
    assert getattr(parser.parse_args([f"--{alias}=x"]), name) == "x"


def test_help_has_topics_common_ones_first(parser):
    text = parser.format_help()
    order = [
        "what to run",
        "text to tokens",
        "training:",
        "initial checkpoint",
        "several processes",
    ]
    places = [text.index(f"\n{title}") for title in order]
    assert places == sorted(places)
    assert "default: 1e-05" in text
    assert "default: None" not in text


@pytest.mark.parametrize(
    "argv",
    [["--learning_rate=1"], ["--epoch=3"], ["--lr=high"], ["--bf16", "--fp16"], ["--amp_opt=O3"]],
)
def test_a_wrong_flag_is_one_line(parser, argv):
    with pytest.raises(ConfigError) as error:
        parser.parse_args(argv)
    assert "\n" not in str(error.value)
    assert argv[-1].split("=")[0] in str(error.value)


def _parse(*argv):
    return parse_settings(ClassifierSettings, None, argv)


def test_process_comes_from_the_launcher_or_the_flags():
    settings = _parse()
    assert processes.distributed_config(settings, {}).world_size == 1
    launched = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    place = processes.distributed_config(settings, launched)
    assert (place.rank, place.world_size, place.device_id) == (5, 8, 1)
    cpu = processes.distributed_config(_parse("--device_id=-1"), launched)
    assert cpu.device_id == -1
    given = _parse("--distributed_world_size=2", "--distributed_rank=1")
    place = processes.distributed_config(given, {})
    assert (place.rank, place.world_size) == (1, 2)
    assert place.init_method == "tcp://127.0.0.1:11111"
    with pytest.raises(ConfigError, match="RANK"):
        processes.distributed_config(settings, {"RANK": "x", "WORLD_SIZE": "2"})


def test_apex_levels_and_backends_in_any_spelling():
    assert _parse("--fp16").device.precision == "fp16"
    assert _parse("--fp16", "--amp_opt=o1").device.precision == "fp16"
    plain = _parse("--fp16", "--amp_opt=O0")
    assert plain.device.precision == "fp32"
    assert plain.result_affecting_config() == _parse().result_affecting_config()
    for spelling in ("PyTorch", "pytorch", "APEX"):
        ddp_backend = _parse(f"--ddp_backend={spelling}").distributed.ddp_backend
        assert ddp_backend == spelling.lower()


def test_model_size_sets_all_widths():
    sizes = _parse("--model_size=H256").model.sizes()
    config = ModelConfig(vocab_size=100, **sizes)
    assert (config.d_model, config.d_embed, config.n_head, config.d_head) == (256, 256, 4, 64)
    assert (config.d_inner, config.vocab_size) == (1024, 100)
    for wrong in ("256", "H", "Hx", "H8"):
        with pytest.raises(ConfigError, match="model_size"):
            _parse(f"--model_size={wrong}").model.sizes()


def test_number_of_processes():
    assert multigpu.number_of_processes(3, -1) == 3
    with pytest.raises(ConfigError, match="distributed_world_size"):
        multigpu.number_of_processes(None, -1)
    with pytest.raises(ConfigError, match="distributed_world_size=0"):
        multigpu.number_of_processes(0, -1)
