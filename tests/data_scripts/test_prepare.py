"""``prepare_wikipedia.py`` and ``prepare_text.py`` as programs, and on to records."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import repo_layout
from funnel.formats.tfrecord import read_examples
from funnel.tokenization import get_tokenizer
from wiki_dumps import CLEAN, compressed, dump, plain_sentences

pytestmark = pytest.mark.slow

SCRIPTS = repo_layout.ROOT / "data-scripts"
CREATE = repo_layout.ROOT / "pytorch" / "create_pretrain_data.py"


def command(program, *flags):
    return [sys.executable, str(SCRIPTS / program), *map(str, flags)]


def run(folder, program, *flags, status=0):
    done = subprocess.run(
        command(program, *flags), cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr
    return done


def fails(folder, program, *flags):
    error = run(folder, program, *flags, status=2).stderr
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def texts(folder):
    """Return {name: bytes} of the complete text files."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*.txt"))}


def as_text(documents):
    return "".join("\n".join(document) + "\n\n" for document in documents)


EXPECTED = as_text([CLEAN, *map(plain_sentences, range(60))])


def test_a_dump_becomes_clean_sentences(tmp_path):
    (tmp_path / "dump.xml").write_bytes(dump(60))
    (tmp_path / "dump.xml.bz2").write_bytes(compressed(dump(60), 2))
    done = run(tmp_path, "prepare_wikipedia.py", "--input", "dump.xml", "--output_dir", "one")
    assert texts(tmp_path / "one") == {"wikipedia.00000-of-00001.txt": EXPECTED.encode()}
    assert "one: 61 documents, 1,266 sentences" in done.stdout
    assert "1 of 1 files are there" in done.stdout and "(1 left out)" in done.stderr
    flags = ("--input", "*.bz2", "--output_dir", "many", "--shard_mb=0.005", "--num_task=2")
    run(tmp_path, "prepare_wikipedia.py", *flags, "--task=0", "--num_proc=2")
    half = texts(tmp_path / "many")
    run(tmp_path, "prepare_wikipedia.py", *flags, "--task=1", "--num_proc=1")
    complete = texts(tmp_path / "many")
    assert len(complete) >= 2 and 0 < len(half) < len(complete) and half.items() < complete.items()
    assert b"".join(complete.values()) == EXPECTED.encode()


def test_a_killed_run_continues_with_the_missing_files(tmp_path):
    (tmp_path / "dump.xml").write_bytes(dump(1600))
    flags = ("--input", "dump.xml", "--shard_mb=0.2", "--num_proc=2", "--output_dir")
    out = tmp_path / "out"
    started = subprocess.Popen(
        command("prepare_wikipedia.py", *flags, "out"), cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 60
    while not (texts(out) and list(out.glob(".tmp-*"))) and time.monotonic() < limit:
        assert started.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    started.kill()
    started.wait()
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("[!.]*.txt")}
    run(tmp_path, "prepare_wikipedia.py", *flags, "fresh")
    done = run(tmp_path, "prepare_wikipedia.py", *flags, "out")
    assert stamps and "12 files are there already" in done.stderr
    assert texts(out) == texts(tmp_path / "fresh")
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert sorted(os.listdir(out)) == sorted(["prepared.json", *texts(out)])


MEASURED = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory(folder, program, *flags):
    """Return the peak memory of the program in MiB."""
    python, script, *rest = command(program, *flags)
    measured = [python, "-c", MEASURED, script, *rest]
    done = subprocess.run(measured, cwd=folder, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-2]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_memory_stays_as_the_input_grows_tenfold(tmp_path):
    """7 MB in one text file: holding all of it in memory would show."""
    peaks = {"prepare_wikipedia.py": [], "prepare_text.py": []}
    for articles in (500, 5000):
        data = dump(articles)
        (tmp_path / "dump").write_bytes(compressed(data))
        (tmp_path / "a.txt").write_bytes(data.replace(b"<page>", b"\n"))
        for program, name in (("prepare_wikipedia.py", "dump"), ("prepare_text.py", "a.txt")):
            flags = ("--input", name, "--num_proc=1", "--output_dir", f"{name}.{articles}")
            peaks[program].append(peak_memory(tmp_path, program, *flags))
    assert len(data) > 7e6
    for before, after in peaks.values():
        assert after - before < 6, peaks


def test_mistakes_are_one_line_and_write_nothing(tmp_path):
    (tmp_path / "cut.xml.bz2").write_bytes(compressed(dump(60))[:-500])
    (tmp_path / "page.html").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"Ann.\n")
    (tmp_path / "b.txt").write_bytes(b"Bob \xff\n")
    for program, message, *flags in [
        ("prepare_wikipedia.py", "cut.xml.bz2: the file is truncated", "--input=cut.xml.bz2"),
        ("prepare_wikipedia.py", "page.html: not a Wikipedia dump", "--input=page.html"),
        ("prepare_wikipedia.py", "empty: the file is empty", "--input=empty"),
        ("prepare_wikipedia.py", "--input none*: no such file", "--input=none*"),
        ("prepare_text.py", "--input none: there is no text file", "--input=none"),
        ("prepare_text.py", "--task=1: of 1 tasks", "--input=a.txt", "--task=1"),
        ("prepare_text.py", "--num_proc=0: it must be at least 1", "--input=.", "--num_proc=0"),
        ("prepare_text.py", "--shard_mb=nan: it must be", "--input=.", "--shard_mb=nan"),
        ("prepare_text.py", "--encoding=x: unknown", "--input=.", "--encoding=x"),
    ]:
        assert message in fails(tmp_path, program, *flags, "--output_dir=out")
        assert not (tmp_path / "out").exists()
    message = fails(tmp_path, "prepare_text.py", "--input=b.txt", "--output_dir=out")
    assert "b.txt, byte 4: not utf-8 text; see --encoding" in message
    assert os.listdir(tmp_path / "out") == ["prepared.json"]
    message = fails(tmp_path, "prepare_text.py", "--input=a.txt", "--output_dir=out")
    assert "out holds text made with input_sha256" in message


@pytest.mark.parametrize("kind", ["word_piece", "sent_piece"])
def test_from_raw_text_to_records(tmp_path, kind):
    """Text of both kinds, a vocabulary twice, and records with the tokens of that text."""
    (tmp_path / "dump.xml").write_bytes(dump(60))
    lines = [json.dumps({"body": f"Page {n} is here.\nIt has words. Few."}) for n in range(200)]
    (tmp_path / "crawl.jsonl").write_text("\n".join(lines))
    run(tmp_path, "prepare_wikipedia.py", "--input=dump.xml", "--output_dir=corpus/wiki")
    flags = ("--input=crawl.jsonl", "--text_key=body", "--output_dir=corpus/crawl")
    run(tmp_path, "prepare_text.py", *flags)
    (text,) = texts(tmp_path / "corpus/crawl").values()
    assert text.decode() == as_text([f"Page {n} is here.", "It has words.", "Few."]
                                    for n in range(200))  # fmt: skip
    pattern = "corpus/*/*.txt"
    for name in ("vocab", "again"):
        flags = ("--input", pattern, "--output", name, "--type", kind, "--vocab_size=120")
        run(tmp_path, "build_vocab.py", *flags)
    assert (tmp_path / "vocab").read_bytes() == (tmp_path / "again").read_bytes()
    flags = ("--tokenizer_path=vocab", f"--tokenizer_type={kind}", "--num_task=2", "--num_proc=2")
    create = [sys.executable, str(CREATE), f"--input_glob={pattern}", "--save_dir=out", *flags]
    subprocess.run([*create, "--seq_len=32"], cwd=tmp_path, check=True, capture_output=True)
    tokenizer = get_tokenizer(kind, tmp_path / "vocab")
    known = {token for line in (text.decode() + EXPECTED).splitlines()
             for token in tokenizer.encode(line)}  # fmt: skip
    special = tokenizer.special
    for meta in (tmp_path / "out").glob("meta.*"):
        found = json.loads(meta.read_text())
        (name,) = found["filenames"]
        examples = list(read_examples(Path(tmp_path, "out", name)))
        assert len(examples) == found["num_example"] > 10
        for _, example in examples:
            tokens = list(example["input"])
            assert len(tokens) == 32 and tokens[0] == special.cls_id
            assert tokens.count(special.sep_id) == 2
            assert set(tokens) <= known | {special.cls_id, special.sep_id}


def test_help_says_where_to_get_what():
    for program, words in {
        "prepare_wikipedia.py": ("dumps.wikimedia.org", "files:", "work:", "--keep_lists"),
        "prepare_text.py": ("BookCorpus", "Gigaword", "ClueWeb12", "Common Crawl", "--text_key"),
    }.items():
        shown = run(repo_layout.ROOT, program, "--help").stdout
        assert all(word in shown for word in words)
