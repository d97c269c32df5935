"""The download scripts as users call them: with a local server, a directory, and kills."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import faulty_server
import published_sets
import repo_layout
from funnel.tasks import get_task
from funnel.tasks.race import read_race
from funnel.tasks.squad import read_squad
from funnel_data.downloads.catalog import CHECKPOINTS, GLUE, TEXTCLS
from funnel_data.downloads.session import ConsoleProgress

pytestmark = pytest.mark.slow

SCRIPTS = {
    "glue": "data-scripts/download_glue.sh",
    "textcls": "data-scripts/download_textcls.sh",
    "squad": "data-scripts/download_squad.sh",
    "race": "data-scripts/download_race.sh",
    "ckpts": "download_all_ckpts.sh",
}
WNLI = "/dl.fbaipublicfiles.com/glue/data/WNLI.zip"


def environment(mirror, **more):
    return {**os.environ, "PYTHON": sys.executable, "FUNNEL_MIRROR": str(mirror), **more}


def call(group, mirror, *flags, expected=0, **more):
    """Run a script; return its stdout (the summary) and stderr (notes)."""
    command = ["bash", str(repo_layout.ROOT / SCRIPTS[group]), *map(str, flags)]
    done = subprocess.run(command, env=environment(mirror, **more), capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def site():
    """A server with WNLI and RTE in their published sizes."""
    with faulty_server.serve(faulty_server.Site()) as running:
        running.files |= published_sets.site_files(["WNLI", "RTE"])
        yield running


@pytest.fixture
def small(site, tmp_path):
    """Arguments that download WNLI into a new folder."""
    return ("glue", site.address, "--only", "WNLI", "--dest", tmp_path / "d", "--attempts", 1)


def as_directory(files, folder, *, flat=False):
    for path, data in files.items():
        target = folder / (Path(path).name if flat else path[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def all_files(folder):
    """Return every file, including partial downloads."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_glue_in_its_published_sizes(site, tmp_path):
    sets = ["CoLA", "STS-B", "MRPC", "WNLI", "RTE", "diagnostic"]
    site.files |= published_sets.site_files(sets)
    summary, notes = call("glue", site.address, "--only", *sets, "--dest", tmp_path)
    assert summary == f"{tmp_path}: 6 downloaded\n" and "\r" not in notes
    sizes = {"cola": "CoLA", "sts-b": "STS-B", "mrpc": "MRPC", "wnli": "WNLI", "rte": "RTE"}
    for name, folder in sizes.items():
        published = published_sets.find(folder).published
        for split in ("train", "dev", "test"):
            examples = get_task(name).load(tmp_path / folder, split)
            assert len(examples) == published[f"{split}.tsv"]
    assert len(get_task("diagnostic").load(tmp_path / "diagnostic", "test")) == 1104
    dev = get_task("mrpc").load(tmp_path / "MRPC", "dev")
    assert (dev[5].text_a, dev[5].text_b, dev[5].label) == ('Said "one 5.', "Said two.", 1)
    lines = (tmp_path / "MRPC/test.tsv").read_text().splitlines()
    assert lines[0].startswith("index\t#1 ID") and lines[3] == "2\t2\t0\tA.\tB."
    assert not (tmp_path / ".downloads").exists()


@pytest.mark.parametrize(("group", "sets"), [("glue", GLUE), ("textcls", TEXTCLS)])
def test_every_set_from_a_directory(tmp_path, group, sets):
    files = published_sets.site_files([dataset.name for dataset in sets], rows=30)
    mirror, dest = as_directory(files, tmp_path / "mirror"), tmp_path / "d"
    call(group, mirror, "--dest", dest, "--any-size")
    for dataset in sets:
        for task in map(get_task, dataset.tasks):
            for split in task.splits:
                assert len(task.load(dest / dataset.name, split)) == 30
    assert not list(dest.rglob("unsup"))


def test_squad_race_and_checkpoints_from_loose_files(tmp_path):
    names = ["squad", "race", *(dataset.name for dataset in CHECKPOINTS)]
    files = published_sets.site_files(names, rows=4)
    mirror = as_directory(files, tmp_path / "mirror", flat=True)
    for group in ("squad", "race"):
        call(group, mirror, "--any-size", "--dest", tmp_path)
    assert len(read_squad(tmp_path / "squad/train-v2.0.json").questions) == 4
    assert len(read_race(tmp_path / "race", "dev").questions) == 8
    flags = ("--sizes", "b4-4-4h768,B10-10-10H1024", "--formats", "PT", "full-tf")
    call("ckpts", mirror, *flags, "--dest", tmp_path / "ckpts")
    present = sorted(p.name for p in (tmp_path / "ckpts").iterdir() if p.is_dir())
    sizes = ("B10-10-10H1024", "B4-4-4H768")
    assert present == [f"{size}-ELEC-{form}" for size in sizes for form in ("FULL-TF", "PT")]
    assert (tmp_path / "ckpts/B4-4-4H768-ELEC-PT/model.pt").read_bytes() == b"p" * 5000


def test_no_tool_but_python_is_needed(site, small, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    call(*small, PATH=str(tools))
    assert (tmp_path / "d/WNLI/train.tsv").exists()


def test_a_second_call_does_only_what_is_missing(site, small, tmp_path):
    call(*small)
    (tmp_path / "d/WNLI/notes.txt").write_text("mine")
    site.seen.clear()
    group, address, *flags = small
    summary, _ = call(group, address, *flags[:2], "RTE", *flags[2:])
    assert "1 downloaded" in summary and "1 there already" in summary
    assert [path for path, _ in site.seen] == [WNLI.replace("WNLI", "RTE")]
    assert (tmp_path / "d/WNLI/notes.txt").exists()


def test_an_incomplete_folder_is_replaced_only_with_force(site, small, tmp_path):
    call(*small)
    train = tmp_path / "d/WNLI/train.tsv"
    train.write_text("short")
    summary, _ = call(*small, expected=1)
    assert "train.tsv: is missing or has changed" in summary and "--force" in summary
    assert train.read_text() == "short"
    call(*small, "--force")
    assert train.stat().st_size > 1000


FAULTS = {
    "page": "text/html",
    "page as data": "a web page instead of the file",
    "404": "answers 404",
    "length too small": "corrupt archive",
    "length too large": "given up after 1 attempts",
    "cut": "given up after 1 attempts",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_one_set_and_shows_in_the_exit_status(site, small, tmp_path, fault):
    group, address, *flags = small
    site.always[WNLI] = fault
    both = (group, address, *flags[:2], "RTE", *flags[2:])
    summary, _ = call(*both, expected=1)
    assert "1 downloaded, 1 FAILED" in summary and FAULTS[fault] in summary.splitlines()[1]
    assert not (tmp_path / "d/WNLI").exists()
    site.always.clear()
    assert "1 there already, 1 downloaded" in call(*both, "--attempts", 2)[0]


def hostile():
    return published_sets.tarred({"B4-4-4H768-ELEC-PT/model.pt": b"p", "../../../evil": b"!"})


def test_a_hostile_archive_leaves_nothing_anywhere(tmp_path):
    name = "B4-4-4H768-ELEC-PT.tar.gz"
    mirror = as_directory({f"/{name}": hostile()}, tmp_path / "mirror")
    flags = ("--sizes", "B4-4-4H768", "--formats", "PT", "--dest", tmp_path / "a/b/ckpts")
    summary, _ = call("ckpts", mirror, *flags, expected=1)
    assert "'../../../evil': its path holds .." in summary
    assert all_files(tmp_path) == [f"mirror/{name}"]


def test_other_sizes_than_published(site, small, tmp_path):
    site.files |= published_sets.site_files(["WNLI"], rows=9)
    summary, _ = call(*small, expected=1)
    assert f"{tmp_path}/d/WNLI/train.tsv: 9 records, 635 were published" in summary
    assert not (tmp_path / "d/WNLI").exists()
    _, notes = call(*small, "--any-size")
    assert f"{tmp_path}/d/WNLI/train.tsv: 9 records, 635 were published" in notes
    assert len(site.seen) == 1  # the download was kept


def test_a_checksum_other_than_the_first_one(site, small, tmp_path):
    call(*small)
    manifest = tmp_path / "d/download-manifest.json"
    [entry] = json.loads(manifest.read_text())["downloads"].values()
    assert entry["size"] == len(site.files[WNLI]) and len(entry["sha256"]) == 64
    shutil.rmtree(tmp_path / "d/WNLI")
    site.files[WNLI] += b"more"
    summary, _ = call(*small, expected=1)
    assert "if the publisher changed the file, remove its entry" in summary
    assert not (tmp_path / "d/WNLI").exists()


def test_a_corrupt_file_of_an_earlier_run_is_downloaded_again(site, small, tmp_path):
    left = tmp_path / "d/.downloads/WNLI/WNLI.zip"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"PK\x03\x04 and no more")
    _, notes = call(*small)
    assert "downloading it again" in notes
    call(*small)


def start(small, **more):
    group, mirror, *flags = small
    command = ["bash", str(repo_layout.ROOT / SCRIPTS[group]), *map(str, flags)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment(mirror, **more), **quiet)


def kill_when(process, condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)  # the script has become the Python program: exec
    process.wait()


def test_killed_while_downloading(site, small, tmp_path):
    contents = {"WNLI/large.bin": random.Random(0).randbytes(500_000)}
    site.files[WNLI] = published_sets.zipped(contents, onto=site.files[WNLI])
    site.faults[WNLI] = ["stall"]
    dest, half = tmp_path / "d", len(site.files[WNLI]) // 2
    part = dest / ".downloads/WNLI/WNLI.zip.part"
    process = start(small)
    kill_when(process, lambda: part.exists() and part.stat().st_size == half)
    assert all_files(dest) == [
        ".downloads/WNLI/WNLI.zip.part",
        ".downloads/WNLI/WNLI.zip.part.json",
    ]
    call(*small)
    assert site.ranges(WNLI) == [None, f"bytes={half}-"]
    files = ["WNLI/dev.tsv", "WNLI/test.tsv", "WNLI/train.tsv", "download-manifest.json"]
    assert all_files(dest) == files


def test_killed_while_unpacking(tmp_path):
    mirror, dest = tmp_path / "mirror", tmp_path / "d"
    as_directory(published_sets.site_files(["imdb"], rows=2_000), mirror)
    arguments = ("textcls", mirror, "--only", "imdb", "--any-size", "--dest", dest)
    process = start(arguments)
    kill_when(process, lambda: len(list(dest.glob(".tmp-*/train/pos/*"))) > 100)
    assert not (dest / "imdb").exists()
    call(*arguments)
    assert len(list(dest.glob("imdb/*/*/*.txt"))) == 4_000
    assert sorted(p.name for p in dest.iterdir()) == ["download-manifest.json", "imdb"]


def test_concurrent_downloads_of_one_set_are_refused(site, small, tmp_path):
    site.faults[WNLI] = ["stall"]
    process = start(small)
    part = tmp_path / "d/.downloads/WNLI/WNLI.zip.part"
    deadline = time.monotonic() + 30
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    summary, _ = call(*small, expected=1)
    assert "another download of this set is running" in summary
    process.kill()
    process.wait()


@pytest.mark.parametrize("group", SCRIPTS)
def test_help(tmp_path, group):
    words, _ = call(group, "", "--help")
    assert all(word in words for word in ("--dest", "--mirror", "--list", "--attempts"))


def test_needs_no_package():
    program = repo_layout.ROOT / "data-scripts" / "fetch.py"
    bare = [sys.executable, "-S", str(program), "race", "--list"]  # -S: no site-packages
    done = subprocess.run(bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_list_and_plan_write_nothing(small, tmp_path):
    (tmp_path / "d/RTE").mkdir(parents=True)
    (tmp_path / "d/RTE/x").touch()
    listed, _ = call(*small, "--list")
    address = small[1] + WNLI
    assert listed.split()[-1] == address and listed.startswith("WNLI")
    planned, _ = call(*small, "--dry-run", "--only", "RTE", "WNLI")
    rte, wnli = planned.splitlines()
    assert "d/RTE: only checked" in rte and f"d/WNLI: to download  {address}" in wnli
    assert all_files(tmp_path) == ["d/RTE/x"]


@pytest.mark.parametrize(
    ("group", "flags", "message"),
    [
        ("glue", ["--only", "KoLA"], "--only KoLA: one of CoLA, SST-2"),
        ("ckpts", ["--sizes", "B1"], "--sizes B1: one of B4-4-4H768"),
        ("race", ["--attempts", "0"], "--attempts must be at least 1"),
    ],
)
def test_mistakes_are_one_line(group, flags, message):
    _, notes = call(group, "", *flags, expected=2)
    assert notes.startswith("error: ") and message in notes and notes.count("\n") == 1


def test_progress_is_for_terminals():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown, silent = Terminal(), io.StringIO()
    for stream in (shown, silent):
        progress = ConsoleProgress(stream)
        progress.update("a.zip", 500_000, 2_000_000)
        progress.update("a.zip", 2_000_000, 2_000_000)
        progress.note("done")
    assert "a.zip: 0.5 of 2.0 MB" in shown.getvalue() and "\r\x1b[Kdone" in shown.getvalue()
    assert silent.getvalue().strip() == "done"


def test_shell_scripts_are_clean():
    scripts = [
        p
        for top in (
            "",
            "data-scripts",
            "data-scripts/cluster",
            "pytorch/scripts",
            "tensorflow/scripts",
        )
        for p in sorted((repo_layout.ROOT / top).glob("*.sh"))
    ]
    assert len(scripts) >= len(SCRIPTS)
    for script in scripts:
        lines = script.read_text().splitlines()
        if lines[0].startswith("#!"):  # others are sourced
            assert os.access(script, os.X_OK), script
            assert "set -euo pipefail" in lines, script
    batch = repo_layout.ROOT / "data-scripts" / "cluster" / "slurm_records.sbatch"
    installed = Path(sys.executable).with_name("shellcheck")
    program = str(installed) if installed.exists() else shutil.which("shellcheck")
    if not program:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [program, *map(str, scripts), str(batch)],  # settings: .shellcheckrc
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
