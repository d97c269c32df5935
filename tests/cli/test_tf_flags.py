"""The command lines of the TensorFlow programs: the frozen set of flags, and their settings."""

import os
import subprocess

import pytest

pytest.importorskip("absl")

import repo_layout
import tf_program_runs
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import ConfigError
from funnel_tf.cli import absl_flags, configs, programs
from half_installation import run_without
from tf_flag_table import ALIASES, PROGRAMS, new_flags, original_flags
from tf_program_runs import parse_flags

VOCABULARY = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "a", "b"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return get_tokenizer("word_piece", str(path))


_parse = tf_program_runs.parse_settings


@pytest.mark.parametrize("program", PROGRAMS)
def test_set_and_defaults_are_frozen(program):
    flags, original = vars(parse_flags(program)), original_flags(program)
    assert set(flags) == set(original) | new_flags(program)
    assert {name: flags[name] for name in original} == original
    assert _parse(program) == programs.PROGRAMS[program]()


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_is_accepted(program):
    values = absl_flags.define_flags(programs.PROGRAMS[program])
    arguments = []
    for name in {*original_flags(program), *new_flags(program)}:
        flag = values[name]
        if hasattr(flag.parser, "enum_values"):
            arguments.append(f"--{name}={flag.parser.enum_values[-1]}")
        elif flag.boolean:
            arguments += [f"--{name}=false", f"--no{name}", f"--{name}", f"--{name}=True"]
        else:
            arguments.append(f"--{name}={flag.value or 1}")
    parsed = _parse(program, *arguments)
    assert parsed.given == set(original_flags(program)) | new_flags(program)


def test_aliases_and_spellings():
    for name, (letters, target) in ALIASES.items():
        for program, letter in PROGRAMS.items():
            if letter in letters:
                assert getattr(parse_flags(program, f"--{name}=7"), target) in ("7", 7)
    for spelling in ("ELECTRA", "electra"):
        assert _parse("pretrain", f"--loss_type={spelling}").task.loss_type == "electra"


def test_help_has_every_flag_once_and_common_ones_first(capsys):
    with pytest.raises(SystemExit) as ended:
        _parse("classifier", "--help")
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.startswith("usage: classifier.py")
    for name in vars(parse_flags("classifier")):
        assert text.count(f"  --{name} ") == 1, name
    assert text.index("--task_name") < text.index("--train_steps") < text.index("--adam_beta1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nosuch=1"], "nosuch"),
        (["--train_steps=many"], "train_steps=many"),
        (["--pooling_type=sum"], "pooling_type"),
        (["--do_train", "True"], "'True' is no flag"),
    ],
)
def test_wrong_command_lines(arguments, message):
    with pytest.raises(ConfigError, match=message):
        _parse("classifier", *arguments)


def test_model_from_flags_and_from_files(tmp_path, tokenizer):
    sizes = ["--d_model=32", "--n_head=4", "--block_size=2_2"]
    config = configs.model_config(_parse("classifier", *sizes), tokenizer)
    assert (config.d_model, config.vocab_size, config.rel_attn_type) == (32, 9, "rel_shift")
    asked = _parse("classifier", *sizes, "--rel_attn_type=factorized")
    assert configs.model_config(asked, tokenizer).rel_attn_type == "factorized"
    on_tpu = configs.model_config(_parse("classifier", *sizes, "--use_tpu"), tokenizer)
    assert on_tpu.rel_attn_type == "factorized"

    path = tmp_path / "net_config.json"
    on_tpu.replace(d_inner=77).save_net_config(path)
    file = f"--model_config={path}"
    config = configs.model_config(_parse("classifier", file), tokenizer)
    assert (config.d_model, config.d_inner, config.rel_attn_type) == (32, 77, "rel_shift")
    flags = _parse("classifier", file, "--overwrite_keys=d_inner,dropout", "--dropout=0.3")
    config = configs.model_config(flags, tokenizer)
    assert (config.d_inner, config.dropout) == (2048, 0.3)
    flags = _parse("classifier", file, "--notruncate_seq", f"--model_dir={tmp_path}")
    assert not configs.model_config(flags, tokenizer).truncate_seq
    evaluation = _parse("classifier", f"--model_dir={tmp_path}")
    assert configs.model_config(evaluation, tokenizer).d_inner == 77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size=5"], "vocab_size=5"),
        (["--overwrite_keys=depth"], "'depth' is no setting"),
        (["--model_config={config}"], "9 tokens, but the model's vocab_size is 4"),
        (["--cls_id=0"], "cls_id=0: it is 3 in "),
    ],
)
def test_settings_that_contradict_the_vocabulary(arguments, message, tmp_path, tokenizer):
    config = configs.model_config(_parse("classifier"), tokenizer).replace(vocab_size=4)
    config.save_net_config(tmp_path / "net_config.json")
    given = [a.format(config=tmp_path / "net_config.json") for a in arguments]
    flags = _parse("classifier", *given, f"--tokenizer_path={tokenizer.path}")
    with pytest.raises(ConfigError, match=message):
        configs.model_config(flags, configs.open_tokenizer(flags))


def test_optimizer_and_schedule():
    settings = _parse("race", "--learning_rate=2e-5", "--min_lr_ratio=0.5", "--train_steps=10")
    assert configs.schedule_config(settings).min_lr == 1e-5
    optimizer = settings.optimizer
    assert (optimizer.name, optimizer.weight_decay, optimizer.beta2) == ("funnel_adamw", 0.0, 0.99)
    with pytest.raises(ConfigError, match="min_lr_ratio=2"):
        _parse("race", "--min_lr_ratio=2")


def test_settings_that_affect_the_result():
    one = _parse("classifier", "--learning_rate=1e-4", "--model_dir=a", "--save_steps=5")
    other = _parse("classifier", "--learning_rate=1e-4", "--model_dir=b", "--use_tpu")
    assert configs.recorded_settings(one) == configs.recorded_settings(other)
    other = _parse("classifier", "--learning_rate=2e-4")
    assert configs.recorded_settings(one) != configs.recorded_settings(other)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_needs_no_tensorflow(program):
    path = str(repo_layout.PROGRAM_DIRECTORIES["tensorflow"] / f"{program}.py")
    blocked = ["tensorflow", "tensorflow_estimator", "keras", "absl"]
    done = run_without(blocked, [path, "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {program}.py")
    done = run_without(blocked, [path])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: absl-py is not installed") and "pip" in done.stderr


def test_a_run_without_tensorflow_names_what_to_install():
    path = str(repo_layout.PROGRAM_DIRECTORIES["tensorflow"] / "race.py")
    for arguments in (["--do_train"], ["--do_train", "--verbose"]):
        done = run_without(["tensorflow", "tensorflow_estimator", "keras"], [path, *arguments])
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: TensorFlow is not installed")
        assert "pip install -r requirements/tensorflow.txt" in line


def _script(expected=0, **environment):
    """Return the flags that finetune.sh would give to classifier.py."""
    done = subprocess.run(
        ["bash", str(repo_layout.ROOT / "tensorflow/scripts/finetune.sh"), "--log_freq=7"],
        env={"PATH": os.environ["PATH"], "PYTHON": "echo", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == expected, done.stderr
    return done.stderr if expected else parse_flags("classifier", *done.stdout.split()[1:])


@pytest.mark.parametrize(
    ("task", "folder", "settings"),
    [
        ("RTE", "glue/RTE", (16, 1550, 155, 2e-5, 128)),
        ("mnli_matched", "glue/MNLI", (64, 18410, 1841, 1e-5, 128)),
        ("imdb", "imdb", (32, 3905, 390, 1e-5, 512)),
    ],
)
def test_recommended_settings(task, folder, settings):
    flags = _script(TASK=task)
    names = ("train_batch_size", "train_steps", "warmup_steps", "learning_rate", "max_seq_length")
    assert tuple(getattr(flags, name) for name in names) == settings
    assert flags.data_dir == f"data/{folder}" and flags.log_freq == 7


def test_a_task_without_known_steps_needs_them():
    assert "set STEPS" in _script(expected=2, TASK="csv")
    assert _script(TASK="csv", STEPS="30").save_steps == 3


@pytest.mark.parametrize(
    ("program", "length"),
    [
        ("classifier", "--max_seq_length=15"),
        ("race", "--max_seq_length=15"),
        ("squad", "--max_seq_length=15"),
        ("pretrain", "--seq_len=15"),
    ],
)
def test_blocks_that_pool_the_longest_sequence_to_nothing(program, length, tokenizer):
    more = {
        "squad": ["--max_query_length=2"],
        "race": ["--max_qa_length=4"],
        "pretrain": ["--record_dir=x", "--model_dir=y"],
    }
    flags = _parse(program, length, "--block_size=1_1_1_1_1", *more.get(program, []))
    with pytest.raises(ConfigError, match="max_length=15: the 5 blocks of block_size pool 16"):
        configs.model_config(flags, tokenizer)
