"""Every benchmark runs on tiny settings and writes figures that agree with each other."""

import functools
import json
import operator
import os
import statistics
import subprocess
import sys

import pytest

import repo_layout
from support_tf import import_tensorflow

sys.path.append(str(repo_layout.ROOT / "benchmarks"))

from harness import timing

pytestmark = pytest.mark.slow

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "FUNNEL_TEST_DATA": "nowhere"}


def start(part, *flags):
    command = [sys.executable, str(repo_layout.ROOT / "benchmarks" / f"{part}.py"), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=240
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A function that runs a part once and returns what it wrote."""
    folder = tmp_path_factory.mktemp("results")

    def of(part):
        path = folder / f"{part}.json"
        if not path.exists():
            done = start(part, "--quick", f"--output_dir={folder}")
            assert done.returncode == 0, done.stderr
            assert str(path) in done.stdout
        return json.loads(path.read_text())

    return of


def needs(*modules):
    for module in modules:
        pytest.importorskip(module)


def rows_by(result, key):
    return {row[key]: row for row in result["rows"]}


def test_models(results):
    needs("torch", "transformers")
    result = results("models")
    for mode in ("forward", "training"):
        rows = {row["model"]: row for row in result["rows"] if row["mode"] == mode}
        assert list(rows) == ["ours", "hf", "bert"]
        for row in rows.values():
            seconds = statistics.median(row["seconds"])
            assert row["ms"] == pytest.approx(1e3 * seconds)
            assert row["tokens_per_second"] == pytest.approx(2 * 16 / seconds)
            for other in ("hf", "bert"):
                ratio = timing.median_ratio(row["seconds"], rows[other]["seconds"])
                assert row[f"ratio_to_{other}"] == pytest.approx(ratio)
            assert row["working_mib"] <= row["peak_mib"] < 1000
        assert rows["ours"]["parameters"] == rows["hf"]["parameters"] > 200_000
        assert rows["ours"]["gflops"] == rows["hf"]["gflops"] < rows["bert"]["gflops"]


def test_text(results):
    needs("transformers")
    result = results("bench_text")
    rows = rows_by(result, "label")
    for row in result["rows"]:
        assert row["rate"] == pytest.approx(row["amount"] / statistics.median(row["seconds"]))
    first = rows["ours, nothing seen yet"]
    theirs = rows["tokenizers"]
    ratio = timing.median_ratio(theirs["seconds"], first["seconds"])
    assert theirs["ratio"] == pytest.approx(ratio)
    assert {row["unit"] for row in result["rows"]} == {"MB/s", "questions/s"}
    assert result["settings"]["real_text"] is False


def test_input_pipeline(results):
    needs("torch", "transformers")
    rows = rows_by(results("input_pipeline"), "label")
    for row in rows.values():
        assert row["rate"] == pytest.approx(row["examples"] / statistics.median(row["seconds"]))
        for model in ("ELECTRA", "MLM"):
            times = row["rate"] / rows[model]["rate"]
            assert row[f"times_{model.lower()}"] == pytest.approx(times)
    assert len(rows) == 4 + 2


def test_tensorflow_step(results):
    import_tensorflow()
    ours, einsum, read = results("tensorflow_step")["rows"]
    assert ours["ratio_to_einsum"] == pytest.approx(ours["ms"] / einsum["ms"])
    assert read["feeds"] == pytest.approx(read["rate"] / ours["rate"])


def test_mistakes_are_one_line(tmp_path):
    needs("torch", "transformers")
    for part, flag, words in (
        ("models", "--shapes=8-128", "--shapes=8-128: write BATCHxLENGTH"),
        ("report", f"--results={tmp_path}", f"{tmp_path}: no results in it"),
    ):
        done = start(part, flag)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(f"error: {words}")


def made_up_rows():
    """What models.py writes of one setting, in which we take 1 s, Funnel 2 s and BERT 1.25 s."""
    same = {
        "size": "S",
        "mode": "training",
        "batch": 2,
        "length": 512,
        "precision": "fp32",
        "compiled": False,
        "device": "cpu",
        "threads": 2,
        "tokens_per_second": 1024.0,
    }
    return [
        same
        | {
            "model": model,
            "ms": 1e3 * seconds,
            "ratio_to_hf": seconds / 2,
            "ratio_to_bert": seconds / 1.25,
            "peak_mib": peak,
            "gflops": gflops,
        }
        for model, seconds, peak, gflops in (
            ("ours", 1.0, 30, 9.0),
            ("hf", 2.0, 40, 9.0),
            ("bert", 1.25, 60, 10.0),
        )
    ]


def test_report(tmp_path):
    columns = {"what": "what", "rate": "per second"}
    timing.write_result("models", made_up_rows(), tmp_path)
    timing.write_result("bench_text", [{"what": "words", "rate": 12345.6}], tmp_path, {}, columns)
    timing.write_result("other", [{"name": "n", "seconds": [1.0]}], tmp_path)
    done = start("report", f"--results={tmp_path}", f"--plot={tmp_path / 'plot.png'}")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "README.md").read_text().splitlines()
    ours = "| S training 2×512 fp32 | 1,000 | 1,024 | 0.500 | 0.800 | 0.900 | 30 | 0.750 | 0.500 |"
    assert {ours, "| words | 12,346 |", "| n |"} <= set(lines)
    titles = [line for line in lines if line.startswith("## ")]
    assert titles == ["## Encoders", "## Text", "## other"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_cases_take_turns():
    calls, counted = [], 5
    cases = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = timing.interleave(cases, counted, warmup=1)
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert [sorted(one) for one in rounds] == [["a", "b", "c"]] * 6
    assert len({one[0] for one in rounds}) == 3, "a case of the three never came first"
    assert [len(taken) for taken in seconds.values()] == [5, 5, 5]
    # Ratios of the rounds are 1, 4 and 0.5; that of the medians would be 1.5.
    assert timing.median_ratio([1.0, 4.0, 1.5], [1.0, 1.0, 3.0]) == 1.0


def test_peak_memory_is_that_of_the_case():
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc here")
    # 64 MiB for a moment, in a call that makes them.
    prepare = functools.partial(functools.partial, operator.mul, b"x", 64 << 20)
    # Pages that the interpreter frees meanwhile make it some kilobytes less.
    assert 63 << 20 < timing.peak_memory(prepare) < 66 << 20


def test_make_bench_runs_what_there_is():
    recipe = (repo_layout.ROOT / "Makefile").read_text()
    parts = recipe.partition("BENCHMARKS := ")[2].splitlines()[0].split()
    programs = {
        path.stem
        for path in (repo_layout.ROOT / "benchmarks").glob("*.py")
        if "__main__" in path.read_text()
    }
    # gpu.py is a part of gpu.sh; the others take hours.
    others = {"gpu", "tpu", "tpu_tables", "reproduce", "pooled_blocks"}
    assert set(parts) == programs - others and parts[-1] == "report"


def test_finetuning(results):
    needs("torch", "transformers", "accelerate")
    rows = rows_by(results("finetuning"), "label")
    for task in ("CoLA", "RTE"):
        ours, theirs = rows[f"{task}, ours"], rows[f"{task}, transformers Trainer"]
        each = [[s / row["examples"] for s in row["seconds"]] for row in (theirs, ours)]
        assert ours["times_faster"] == pytest.approx(timing.median_ratio(*each))
        assert ours["tokens"] <= ours["padded"] <= theirs["padded"] == 32
        assert ours["ms"] == pytest.approx(1e3 * statistics.median(each[1]))
        assert 0 < rows[f"{task}, ours: products alone"]["ms"] < ours["ms"]


def test_int8(results):
    needs("torch", "transformers")
    for row in results("int8")["rows"]:
        ratio = timing.median_ratio(row["seconds"]["fp32"], row["seconds"]["int8"])
        assert row["times_faster"] == pytest.approx(ratio)
        assert 0 < row["difference"] < 0.1
