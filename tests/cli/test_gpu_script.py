"""The programs for the day on which a GPU is there, tried on the CPU; and the branches of a CPU."""

import json
import os
import subprocess
import sys

import pytest

import repo_layout

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("triton")

sys.path.append(str(repo_layout.ROOT / "benchmarks"))

import branches
import gpu
from funnel.utils.errors import ConfigError
from funnel_torch.kernels.choices import choices

pytestmark = pytest.mark.slow


def read_rows(folder, name):
    return json.loads((folder / f"{name}.json").read_text())["rows"]


def run(monkeypatch, program, *flags):
    monkeypatch.setattr(sys, "argv", [program.__name__, *flags])
    program.main()


def test_the_parts_of_a_dry_run(tmp_path, monkeypatch):
    for part in ("environment", "table", "pretraining"):
        run(monkeypatch, gpu, part, "--dry_run", "--seconds=1000", f"--output_dir={tmp_path}")
    assert {row["item"] for row in read_rows(tmp_path, "gpu_environment")} >= {"torch", "driver"}
    rows = read_rows(tmp_path, "gpu_table")
    assert [row["label"] for row in rows] == [*gpu.IMPLEMENTATIONS] * 2
    # All of them ran, the fused kernels too.
    assert all(row["ms"] > 0 and row["ratio_to_bert"] > 0 for row in rows)
    bare, trainer = read_rows(tmp_path, "pretraining_rate")
    assert bare["share"] == 1 and trainer["share"] == pytest.approx(bare["ms"] / trainer["ms"])
    assert trainer["wait"] > 0


def test_a_failure_is_a_note_and_time_that_is_over_ends_the_table(tmp_path, monkeypatch, capsys):
    def fail(case):
        raise MemoryError("out of memory\nmore")

    monkeypatch.setattr(gpu.baselines, "prepare", fail)
    run(monkeypatch, gpu, "table", "--dry_run", f"--output_dir={tmp_path}")
    rows = read_rows(tmp_path, "gpu_table")
    assert {row["note"] for row in rows} == {"MemoryError: out of memory"} and "ms" not in rows[0]
    run(monkeypatch, gpu, "table", "--dry_run", "--seconds=0", f"--output_dir={tmp_path}")
    assert "no time for tiny training 15" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch):
    if gpu.torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="PyTorch sees no GPU here; --dry_run"):
        run(monkeypatch, gpu, "table")
    script = repo_layout.ROOT / "benchmarks" / "gpu.sh"
    done = subprocess.run([script, "--fast"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: --fast: the only flag is --dry_run\n")


def test_a_dry_run_leaves_the_results_alone(tmp_path):
    script = repo_layout.ROOT / "benchmarks" / "gpu.sh"
    settings = {"PYTHON": sys.executable, "SECONDS_ALLOWED": "0", "TMPDIR": str(tmp_path)}
    environment = {k: v for k, v in os.environ.items() if k != "OUT"} | settings
    command = [script, "--dry_run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "== table: no time left" in done.stdout
    assert f"results in {tmp_path}/" in done.stdout


def test_branches_are_timed_together(tmp_path, monkeypatch):
    flags = ("--quick", "--here", "--modes=forward", f"--output_dir={tmp_path}")
    run(monkeypatch, branches, *flags)
    rows = read_rows(tmp_path, "branches")
    # Chunks only where there are several.
    alone = ["ours, auto: products alone", "transformers Funnel: products alone"]
    for shape, count in (("2x16", 4), ("1x160", None)):
        labels = [row["label"] for row in rows if shape in row["setting"]]
        assert labels[2:] == [*branches.BRANCHES][:count] + alone
    assert all(row["ratio_to_hf"] > 0 for row in rows if "alone" in row["label"])
    assert all(row["ratio_to_auto"] == 1 for row in rows if row["label"] == "ours, auto")
    assert choices.settings in branches.BRANCHES.values()


def test_instruction_sets(monkeypatch):
    monkeypatch.setattr(branches.torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert branches.available() == ["avx512", "avx2"]
    monkeypatch.setattr(branches.torch.backends.cpu, "get_cpu_capability", lambda: "NEON")
    assert branches.available() == ["default"]
    assert branches.environment("avx2")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    with pytest.raises(ConfigError, match="--instructions=mmx: choose from avx512"):
        run(monkeypatch, branches, "--instructions=mmx")
