"""A tiny task, vocabulary and model for tests of the fine-tuning programs, and ways to run them."""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import program_server

REPOSITORY = Path(__file__).resolve().parents[2]
PYTORCH = REPOSITORY / "pytorch"
_SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
_WORDS = ("good", "bad", "film", "the", "a", "plot", "very", "not", "##s", "one", "two", "cat")
_DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_PRETRAINING_CLOCK = ("tokens_per_second", "tflops_per_device", "input_wait_seconds")
_CONFIG = {
    "vocab_size": len(_SPECIAL) + len(_WORDS),
    "d_model": 16,
    "d_embed": 16,
    "n_head": 2,
    "d_head": 8,
    "d_inner": 32,
    "block_size": "1_1",
    "dropout": 0.1,
    "dropatt": 0.1,
    "dropact": 0.0,
    "pooling_type": "mean",
    "pooling_size": 2,
    "pool_q_only": True,
    "separate_cls": True,
}


def write_files(folder, train=48, dev=12, **config):
    """CoLA-shaped data (label 1 iff it says `good`), `vocab.txt` and `net_config.json`."""
    draw = random.Random(0)

    def rows(count):
        for number in range(count):
            words = draw.choices([w for w in _WORDS if "#" not in w], k=draw.randint(2, 12))
            label = int("good" in words)
            yield f"src\t{label}\t\t{' '.join(words)}\n", f"{number}\t{' '.join(words)}\n"

    data = folder / "CoLA"
    data.mkdir(parents=True)
    (data / "train.tsv").write_text("".join(row for row, _ in rows(train)))
    (data / "dev.tsv").write_text("".join(row for row, _ in rows(dev)))
    (data / "test.tsv").write_text("index\tsentence\n" + "".join(row for _, row in rows(9)))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in _SPECIAL + _WORDS))
    (folder / "net_config.json").write_text(json.dumps(_CONFIG | config))


def arguments(folder, model_dir="run", **changes):
    """Flags of a run on those files; None leaves a flag out, True gives it without a value."""
    flags = {
        "device_id": -1,
        "dataset": "cola",
        "data_dir": folder / "CoLA",
        "model_dir": folder / model_dir,
        "tokenizer_path": folder / "vocab.txt",
        "init_ckpt_config": folder / "net_config.json",
        "max_length": 16,
        "train_bsz": 8,
        "epochs": 2,
        "lr": 1e-3,
        "seed": 1,
        # Measured, it could differ between two runs that are compared.
        "short_attention": "parts",
        "gelu": "parts",
    }
    return flag_list(flags | changes)


def flag_list(flags):
    """`--name=value` of each; None leaves a flag out, True gives it without a value."""
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in flags.items()
        if value is not None
    ]


def load_program(name):
    """A program of pytorch/ as a module; TensorFlow's of the same name does not get in the way."""
    sys.path[:0] = [path for path in (str(PYTORCH),) if path not in sys.path]
    spec = importlib.util.spec_from_file_location(f"pytorch_{name}", PYTORCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def curve(model_dir):
    """metrics.jsonl without what the clock decides."""
    lines = (Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    clock = ("time", "examples_per_second", *_PRETRAINING_CLOCK)
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def invoke(program, argv):
    """Run the program in this process; its exit status."""
    before, sys.argv = sys.argv, [program.__name__, *argv]
    from funnel.utils.main import run_main

    try:
        run_main(program.main)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


def refuse(program, capsys, argv, *words):
    """The run must end in one clear line and status 2."""
    capsys.readouterr()
    assert invoke(program, argv) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]


class Zygote:
    """Runs of one program as processes of their own, to be killed; see ``program_server``."""

    def __init__(self, program):
        self._program = PYTORCH / f"{program}.py"
        self._started = {}

    def start(self, argv, log, file_limit=None):
        """Begin a run; its process id. stdout and stderr go to the file `log`.

        No file can grow beyond `file_limit` bytes: what a full disk feels like.
        """
        environment = {k: v for k, v in os.environ.items() if k not in _DISTRIBUTED}
        environment["OMP_NUM_THREADS"] = "1"
        process = program_server.start(
            [self._program, *argv], log, env=environment, file_limit=file_limit
        )
        self._started[process.pid] = process
        return process.pid

    def wait(self, pid):
        """The exit status of a run, negative for a signal."""
        return self._started.pop(pid).wait()

    def run(self, argv, log, file_limit=None):
        """Begin a run and wait for it."""
        return self.wait(self.start(argv, log, file_limit))

    def close(self):
        """End the runs that are left."""
        for process in self._started.values():
            process.kill()


def steps_done(model_dir):
    """The last step whose log line is complete."""
    try:
        return len((model_dir / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def stop_runs(moments, lines, draw, stop_and_compare, most_ended=6):
    """Stop runs at random moments until there were as many stops as there are ``moments``.

    With steps of milliseconds a run can end before it is sent the signal, which is no stop: other
    moments follow, in a new run, for which at most ``most_ended`` runs are added.

    Args:
        lines: numbers of log lines to draw from.
        draw: a `random.Random`.
        stop_and_compare: takes the number of the run and the moments to stop it at; lets it end,
            compares it and returns how often it stopped.
    """
    stops = 0
    for number in range(moments + most_ended):
        stops += stop_and_compare(number, sorted(draw.sample(lines, moments - stops)))
        if stops == moments:
            return
    raise AssertionError(f"{stops} of {moments} signals were sent before the end of a run")


def kill_after(zygote, argv, model_dir, lines, log, signals=(signal.SIGKILL,)):
    """Start the run and kill it without warning once it has written so many log lines."""
    pid = zygote.start(argv, log)
    deadline = time.monotonic() + 60
    while steps_done(model_dir) < lines:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.001)
    time.sleep(random.Random(lines).uniform(0.0, 0.02))  # not always just after a log line
    for number in signals:
        os.kill(pid, number)
    return zygote.wait(pid)
