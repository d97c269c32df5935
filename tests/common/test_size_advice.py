"""Estimates of batch and time by size and device: monotone, bounded by memory, and printed."""

import dataclasses
import json
from pathlib import Path

import pytest

from funnel.flops import load_sizes, main, training_workload
from funnel.size_advice import (
    BYTES_PER_PARAMETER,
    COMPILED,
    DEVICES,
    advise,
    find_device,
    format_duration,
    parse_memory,
)
from funnel.utils.errors import ConfigError

SIZES = load_sizes()


def _advise(name, length, device):
    return advise(training_workload(SIZES[name], length, 64, device.fused), device)


def test_the_batch_fills_the_memory_and_no_more():
    device, workload = DEVICES["v100"], training_workload(SIZES["B6-6-6H768"], 512)
    advice = advise(workload, device)
    weights = BYTES_PER_PARAMETER * workload.parameters
    batch = advice.batch_size * device.bytes_per_number * workload.stored_numbers
    assert weights + batch <= device.memory < weights + 2 * batch
    assert advise(workload, dataclasses.replace(device, memory=weights)).batch_size == 0


@pytest.mark.parametrize("name", ["v3-8", "v4-8", "v5e-4", "v6e-4"])
def test_tpus_are_as_fast_as_their_compiler_says(name):
    table = Path(__file__).parents[2] / "benchmarks" / "results" / "tpu.json"
    rows = [row for row in json.loads(table.read_text())["rows"] if row["topology"] == name]
    rows = [row for row in rows if (row["program"], row["seq_len"]) == ("classifier", 512)]
    assert rows and DEVICES[name].origin == COMPILED
    for row in rows:
        ours = _advise(row["size"], 512, DEVICES[name]).sequences_per_second
        assert ours == pytest.approx(row["sequences_per_second"], rel=0.25), row["case"]


def test_several_cores_share_the_batch_and_add_their_speed():
    one = _advise("B4-4-4H768", 128, dataclasses.replace(DEVICES["v3-8"], cores=1))
    eight = _advise("B4-4-4H768", 128, DEVICES["v3-8"])
    assert eight.batch_size == 8 * one.batch_size
    assert eight.sequences_per_second == pytest.approx(8 * one.sequences_per_second)


def test_a_funnel_is_faster_than_the_transformer_and_longer_texts_are_slower():
    device = DEVICES["h100"]
    funnel, transformer = (_advise(n, 512, device) for n in ("B4-4-4H768", "L12H768"))
    assert funnel.sequences_per_second > 1.4 * transformer.sequences_per_second
    assert funnel.batch_size > transformer.batch_size
    assert _advise("B4-4-4H768", 128, device).batch_size >= 4 * funnel.batch_size


@pytest.mark.parametrize(
    ("text", "size"), [("16GB", 16e9), ("16", 16e9), ("1.5 gb", 1.5e9), ("16GiB", 16 * 2**30)]
)
def test_memory_is_read(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "0GB", "16MB", "-1GB", "much", "nan"])
def test_other_memory_is_refused(text):
    with pytest.raises(ConfigError, match="write gigabytes"):
        parse_memory(text)


def test_unknown_devices_are_named():
    with pytest.raises(ConfigError, match="--device=tpu: must be one of cpu, t4"):
        find_device("tpu")


def test_the_program_prints_a_row_a_size(capsys):
    main(["--advise", "--device=v100", "--length=512", "--memory=4GB", "--examples=1000"])
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith(("B", "L"))}
    assert rows.keys() == SIZES.keys()
    assert out.startswith("v100: 1 x 4 GB, 16-bit, 125 TFLOP/s")
    assert "assumed: nothing was measured" in out and "1000 examples" in out
    assert "no sequence fits: weights, gradients and Adam take 7.1 GB" in rows["B10-10-10H1024"]
    seconds = float(rows["B4-4-4H768"].split()[4])
    assert 1 < seconds < 100


def test_the_cpu_is_measured(capsys):
    main(["--advise"])
    out = capsys.readouterr().out
    assert "timed just now" in out and "float32" in out


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (36_000, "10.0 h")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text
