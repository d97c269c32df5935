"""``build_vocab.py`` as a program."""

import subprocess
import sys

import pytest

import repo_layout
from funnel.tokenization import get_tokenizer

PROGRAM = repo_layout.ROOT / "data-scripts" / "build_vocab.py"
TEXT = "A funnel makes a sequence shorter.\nFunnels, funnels and more Funnels!\n" * 10


def run(directory, *flags):
    command = [sys.executable, str(PROGRAM), *map(str, flags)]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


@pytest.fixture
def texts(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(TEXT, encoding="utf-8")
    return tmp_path


def test_patterns_and_names_of_files(texts):
    done = run(texts, "--input", "*.txt", "a.txt", "--output", "v.txt", "--vocab_size", 60)
    assert done.returncode == 0, done.stderr
    assert "v.txt: 60 entries from 2 files" in done.stderr
    tokenizer = get_tokenizer("word_piece", texts / "v.txt")
    assert tokenizer.vocab_size == 60
    assert tokenizer.tokenize("Funnels") == ["funnels"]


def test_the_output_of_an_earlier_run_is_no_input(texts):
    flags = ["--input", "*.txt", "--output", "v.txt", "--vocab_size", 60]
    assert run(texts, *flags).returncode == 0
    first = (texts / "v.txt").read_bytes()
    done = run(texts, *flags)
    assert "v.txt: is the output, so it is not read" in done.stderr
    assert (texts / "v.txt").read_bytes() == first
    done = run(texts, "--input", "v.txt", "--output", "v.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --output=v.txt: is the only --input")


def test_cased_sentence_piece(texts):
    flags = ["--type", "sent_piece", "--cased", "--vocab_size", 60]
    done = run(texts, "--input", "a.txt", "--output", "new/spiece.model", *flags)
    assert done.returncode == 0, done.stderr
    tokenizer = get_tokenizer("sent_piece", texts / "new/spiece.model", uncased=False)
    assert tokenizer.special.unk_id not in tokenizer.encode("A Funnel")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "none*"], "--input none*: no such file"),
        (["--input", "empty"], "there is no text"),
        (["--input", "binary"], "binary, line 1: not UTF-8 text"),
        (["--input", "a.txt", "--vocab_size", 12], "vocab_size 12 is too small"),
        (["--input", "a.txt", "--keep_accents"], "--keep_accents is for --type sent_piece"),
        (["--input", "a.txt", "--min_frequency", 0], "min_frequency is 0"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(texts, flags, message):
    (texts / "empty").write_bytes(b"")
    (texts / "binary").write_bytes(b"\xff\xfe\x00")
    done = run(texts, *flags, "--output", "v.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (texts / "v.txt").exists()


def test_help_names_every_flag_in_groups():
    done = run(repo_layout.ROOT, "--help")
    assert done.returncode == 0
    for words in ("files:", "vocabulary:", "text:", "--uncased", "--cased", "--min_frequency"):
        assert words in done.stdout
