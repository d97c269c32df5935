"""Array jobs: every task succeeds once, on Slurm, Kubernetes and one machine."""

import os
import subprocess
import sys

import pytest

import repo_layout
from corpus_cases import random_documents, write_text, write_vocabulary

CLUSTER = repo_layout.ROOT / "data-scripts" / "cluster"
# A fake program that records its flags, and fails for task 1 while a file "bad" exists.
PROGRAM = """echo "$@" >> ran; if [[ $* == *--task=1 && -e bad ]]; then exit 7; fi"""


def bash(folder, script, *arguments, status=0, **environment):
    done = subprocess.run(
        ["bash", str(CLUSTER / script), *map(str, arguments)],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program").write_text(PROGRAM)
    return ("bash", "program", "--flag=a b")


@pytest.fixture
def corpus(tmp_path):
    write_vocabulary(tmp_path)
    for number in range(3):
        write_text(tmp_path / f"corpus/a/{number}.txt", random_documents(number, 40, 6, 80))
    return tmp_path


def test_a_task_runs_once(tmp_path, program):
    (tmp_path / "bad").touch()
    bash(tmp_path, "run_task.sh", 1, 12, "done", *program, status=7)
    (tmp_path / "bad").unlink()
    for said in ("", "task 1 of 12 is done already\n"):
        assert bash(tmp_path, "run_task.sh", "01", 12, "done", *program).stdout == said
    assert (tmp_path / "ran").read_text() == "--flag=a b --num_task=12 --task=1\n" * 2
    assert os.listdir(tmp_path / "done") == ["00001-of-00012.done"]
    other = bash(tmp_path, "run_task.sh", 1, 12, "done", *program, "--x", status=2).stderr
    assert "done/00001-of-00012.done: this task was done by another command" in other


@pytest.mark.parametrize("arguments", [(), (1, 2, "done"), (2, 2, "done", "x"), ("a", 2, "b", "c")])
def test_wrong_arguments(tmp_path, arguments):
    assert bash(tmp_path, "run_task.sh", *arguments, status=2).stderr.startswith("error: needs")
    assert bash(tmp_path, "run_all.sh", "no", *arguments, status=2).stderr.startswith("error: ")


def test_all_tasks_on_one_machine_and_failed_ones_again(tmp_path, program):
    (tmp_path / "bad").touch()
    bash(tmp_path, "run_all.sh", 2, 5, "done", *program, status=123)
    assert len(os.listdir(tmp_path / "done")) == 4  # one failed, the others ran
    (tmp_path / "bad").unlink()
    bash(tmp_path, "run_all.sh", 2, 5, "done", *program)
    ran = (tmp_path / "ran").read_text().splitlines()
    assert sorted(ran) == sorted(f"--flag=a b --num_task=5 --task={n}" for n in (0, 1, 1, 2, 3, 4))


def test_slurm(corpus):
    environment = {
        "SLURM_SUBMIT_DIR": str(repo_layout.ROOT), "PYTHON": sys.executable, "NUM_TASK": "3",
        "INPUT_GLOB": "corpus/*/*.txt", "SAVE_DIR": "records", "TOKENIZER": "vocab.txt",
    }  # fmt: skip
    script = "slurm_records.sbatch"
    assert "run by sbatch" in bash(corpus, script, status=1, **environment).stderr
    for task in ("0", "2"):
        bash(corpus, script, "--pass_id=1", SLURM_ARRAY_TASK_ID=task, **environment)
    made = sorted(path.name for path in (corpus / "records").glob("data.*"))
    name = "data.train.pass-1.seq-512.uncased.tfrecord-{}-of-00003"
    assert made == [name.format("00000"), name.format("00002")]
    flags = "--input=corpus --output_dir=text --num_proc=1 --shard_mb=0.001"
    text = {"PROGRAM": "data-scripts/prepare_text.py", "FLAGS": flags, "SLURM_ARRAY_TASK_ID": "1"}
    bash(corpus, script, **environment | text)
    assert (corpus / "text" / "prepared.json").exists()
    assert os.listdir(corpus / "done-prepare_text") == ["00001-of-00003.done"]


def test_kubernetes(corpus):
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((CLUSTER / "kubernetes_records.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"][1] == str(job["completions"]) == str(job["maxFailedIndexes"])
    words = [*container["command"], *container["args"]]
    for old, new in {
        "/repo": str(repo_layout.ROOT), "/data/": f"{corpus}/", "$(JOB_COMPLETION_INDEX)": "0",
    }.items():  # fmt: skip
        words = [word.replace(old, new) for word in words]
    words = [sys.executable if word == "python" else word for word in words]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    assert len(list((corpus / "records").glob("data.*.tfrecord-00000-of-00128"))) == 1
