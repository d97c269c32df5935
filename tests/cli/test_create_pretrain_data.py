"""``create_pretrain_data.py`` as a user runs it, and the files after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corpus_cases import SPECIAL, random_documents, write_text, write_vocabulary
from funnel.cli.create_pretrain_data import CreateDataSettings
from funnel.cli.flags import make_parser
from funnel.formats.tfrecord import read_examples

PROGRAM = Path(__file__).parents[2] / "pytorch" / "create_pretrain_data.py"
DATA = "data.train.pass-0.seq-24.uncased.tfrecord-{:05d}-of-{:05d}"
META = "meta.train.pass-0.seq-24.uncased.json-{:05d}-of-{:05d}"

# Every flag of the original program, with its default.
ORIGINAL = {
    "input_glob": "data/example/*.txt",
    "save_dir": "proc_data/example",
    "seq_len": 512,
    "split": "train",
    "pass_id": 0,
    "min_doc_len": 1,
    "num_task": 1,
    "task": 0,
    "tokenizer_path": "",
    "tokenizer_type": "word_piece",
    "uncased": True,
    "seg_id_a": 0,
    "seg_id_b": 1,
    "seg_id_cls": 2,
    "seg_id_pad": 0,
    "vocab_size": None,
    **{
        f"{name}_id": None
        for name in ("unk", "bos", "eos", "cls", "sep", "pad", "mask", "eod", "eop")
    },
}
ADDED = {
    "num_proc": None,
    "use_all_text": True,
    "verbosity": 0,
    "alsologtostderr": False,
    "logtostderr": False,
}


def command(folder, *flags):
    usual = (f"--input_glob={folder}/text/*.txt", "--save_dir=out", "--seq_len=24")
    usual += ("--tokenizer_path=vocab.txt",)
    return [sys.executable, str(PROGRAM), *usual, *flags]


def run(folder, *flags, status=0):
    done = subprocess.run(
        command(folder, *flags), cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr
    return done


def fails(folder, *flags):
    error = run(folder, *flags, status=2).stderr
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.fixture
def folder(tmp_path):
    write_vocabulary(tmp_path)
    for number in range(3):
        documents = random_documents(number, 40, 6, 8)
        write_text(tmp_path / f"text/{number}.txt", documents)
    return tmp_path


def test_the_flags_are_those_of_the_original():
    parser = make_parser(CreateDataSettings, None, absl_booleans=True)
    assert vars(parser.parse_args([])) == ORIGINAL | ADDED


def test_one_task(folder):
    done = run(folder, "--num_task=3", "--task=1")
    data, meta = DATA.format(1, 3), META.format(1, 3)
    assert sorted(os.listdir(folder / "out")) == [data, meta]
    count = json.loads((folder / "out" / meta).read_text())["num_example"]
    assert len(list(read_examples(folder / "out" / data))) == count
    assert f"out/{data}: {count} examples from 40 documents" in done.stderr
    assert f"out: {count:,} examples of 24 tokens, from" in done.stdout
    assert "MB/s" in done.stdout


@pytest.mark.slow
def test_all_tasks_in_several_processes_give_the_same_bytes(folder):
    run(folder, "--num_task=3", "--num_proc=2")
    for task in range(3):
        run(folder, "--num_task=3", f"--task={task}", "--save_dir=single")
    together, single = (
        {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        for name in ("out", "single")
    )
    assert len(single) == 6 and together == single


@pytest.mark.parametrize("flags", [["--uncased=False"], ["--nouncased"], ["--uncased", "0"]])
def test_cased(folder, flags):
    run(folder, *flags)
    assert all(".cased." in name for name in os.listdir(folder / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--uncased=True"], ["--uncased"], ["--uncased=1"], []])
def test_uncased(folder, flags):
    run(folder, *flags, "--cls_id=3", "--vocab_size=20", "--pad_id=5")
    assert sorted(os.listdir(folder / "out")) == [DATA.format(0, 1), META.format(0, 1)]


@pytest.mark.slow
def test_user_errors(folder):
    assert "--tokenizer_path is needed" in fails(folder, "--tokenizer_path=")
    assert "nothing.txt: the vocabulary" in fails(folder, "--tokenizer_path=nothing.txt")
    wrong_id = fails(folder, f"--mask_id={len(SPECIAL)}")
    assert "--mask_id=9: it is 6 in vocab.txt" in wrong_id
    assert "none/*: no such file" in fails(folder, "--input_glob=none/*")
    assert "seq_len is 4; it must be at least 5" in fails(folder, "--seq_len=4")
    assert "task 7: of 1 tasks" in fails(folder, "--task=7")
    assert "task 3 of 4 has no file" in fails(folder, "--num_task=4", "--num_proc=2")
    assert "--num_proc runs all tasks" in fails(folder, "--num_task=3", "--num_proc=2", "--task=1")
    (folder / "text/2.txt").write_bytes(b"a\n\xff\n")
    flags = ("--num_task=3", "--num_proc=2")
    *_, last = run(folder, *flags, status=2).stderr.splitlines()  # after what other tasks report
    assert last.startswith("error: ") and last.endswith("iconv -f cp1252 -t utf-8")
    assert "2.txt, line 2: not UTF-8 at byte 1 of the line; " in last
    assert not (folder / "out" / DATA.format(2, 3)).exists()
    # A flag of the wrong form is argparse's to report, with status 2 as well.
    assert "'maybe' should be True or False" in run(folder, "--uncased=maybe", status=2).stderr


@pytest.fixture
def large(tmp_path):
    """Enough text that the writing of each file takes a while."""
    write_vocabulary(tmp_path)
    for number in range(2):
        documents = random_documents(number, 3000, 12, 10)
        write_text(tmp_path / f"text/{number}.txt", documents)
    return tmp_path


def _wait_for_half_a_file(folder, started):
    """Return once a file is being written that has something in it."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        assert started.poll() is None, "ended before it could be killed"
        half = (folder / "out").glob(".tmp-*-data.*") if (folder / "out").exists() else ()
        if any(path.stat().st_size for path in half):
            return
        time.sleep(0.002)
    raise AssertionError("nothing was written")


@pytest.mark.slow
def test_a_kill_leaves_no_half_file(large):
    started = subprocess.Popen(command(large), cwd=large, stderr=subprocess.DEVNULL)
    _wait_for_half_a_file(large, started)
    started.kill()
    started.wait()
    left = os.listdir(large / "out")
    assert left and all(name.startswith(".tmp-") for name in left)  # hidden from every pattern
    run(large)
    assert sorted(os.listdir(large / "out")) == [DATA.format(0, 1), META.format(0, 1)]


def _complete_files(folder):
    files = (folder / "out").iterdir()
    return {path.name: path.read_bytes() for path in files if not path.name.startswith(".tmp-")}


def _children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads processes from /proc")
def test_the_workers_of_a_killed_program_end(large):
    flags = ("--num_task=2", "--num_proc=2")
    started = subprocess.Popen(command(large, *flags), cwd=large, stderr=subprocess.DEVNULL)
    _wait_for_half_a_file(large, started)
    workers = _children(started.pid)
    assert len(workers) >= 2
    started.kill()
    started.wait()
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    left = _complete_files(large)
    run(large, *flags)
    assert len(os.listdir(large / "out")) == 4
    assert left.items() <= _complete_files(large).items()


def test_ctrl_c_ends_all_processes_quietly(large):
    started = subprocess.Popen(
        command(large, "--num_task=2", "--num_proc=2"),
        cwd=large,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _wait_for_half_a_file(large, started)
    os.killpg(started.pid, signal.SIGINT)
    assert started.communicate(timeout=60)[1].strip() == "interrupted"
    assert started.returncode == 130
    assert not list((large / "out").glob(".tmp-*"))


def test_long_lines_are_cut_into_pieces(tmp_path):
    """One document per line, as many corpora have it: no text is lost, and it says so."""
    write_vocabulary(tmp_path)
    write_text(tmp_path / "text/a.txt", [["a b c d e f g . " * 50], ["h bxy cy . " * 60]])
    done = run(tmp_path)
    assert "100.0 % of the text is in examples, 0.00 % of its tokens are unknown" in done.stdout
    count = json.loads((tmp_path / "out" / META.format(0, 1)).read_text())["num_example"]
    assert count >= 820 // 21
    done = run(tmp_path, "--use_all_text=False")
    assert "of the text is in examples: --use_all_text" in done.stderr


def test_many_unknown_tokens_are_said_loudly(folder):
    (folder / "text/0.txt").write_text("a b c Ж Ж d e f g h\n" * 99)
    done = run(folder)
    assert "% of all tokens are unknown to vocab.txt" in done.stderr
