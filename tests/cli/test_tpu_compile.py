"""``tpu_compile.py``: the compiled step is the one that trains, and the report of the compiler."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest

import repo_layout
from half_installation import run_without
from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError
from funnel_tf.cli.tpu import program as tpu_compile
from funnel_tf.cli.tpu.settings import COMPILER_ENVIRONMENT, STEPS, TpuCompileSettings
from funnel_tf.training.optimizer import create_train_op
from funnel_tf.training.tpu_compiler import GIB, Compiled, parse_topology

PROGRAM = str(repo_layout.PROGRAM_DIRECTORIES["tensorflow"] / "tpu_compile.py")
LENGTH, SIZE = 16, 2


def _settings(program="classifier", **changes):
    common = {"topology": "v4-8", "model_config": "tiny", "seq_len": LENGTH, "width_shrink": 0.5}
    return TpuCompileSettings(**{**common, "program": program, **changes})


def _step(program, **changes):
    settings = _settings(program, **changes)
    config = tpu_compile.load_config(settings)
    still = config.replace(dropout=0.0, dropatt=0.0, dropact=0.0)
    return tpu_compile.make_step(settings, still, SIZE)


def _batch(step):
    """Return arrays of the shapes and types of a step's batch."""
    random = np.random.default_rng(0)
    arrays = {}
    for name, spec in step.batch.items():
        is_mask = name in ("attention_mask", "mlm_attention_mask", "target_mask")
        ids = np.ones(spec.shape) if is_mask else random.integers(0, 2, spec.shape)
        arrays[name] = ids.astype(spec.dtype.as_numpy_dtype)
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("program", ["mlm", "classifier", "squad", "race"])
def test_the_step_is_that_of_training(program):
    """From the same values, real variables and tensors in their place end with the same values."""
    step = _step(program, use_bfloat16=False)
    batch = _batch(step)
    with tf.Graph().as_default(), tf.Session() as session:
        features = {name: tf.constant(array) for name, array in batch.items()}
        loss = step.build_loss(features, step.options)
        op = create_train_op(loss, step.optimizer, step.schedule, use_tpu=True)
        session.run(tf.global_variables_initializer())
        variables = {v.name.split(":")[0]: v for v in tf.global_variables()}
        before = session.run(variables)
        expected_loss, _ = session.run([loss, op.train_op])
        expected = session.run(variables)
    assert {spec.name for spec in step.variables()} == set(expected)
    with tf.Graph().as_default(), tf.Session() as session:
        features = {name: tf.constant(array) for name, array in batch.items()}
        found, loss = session.run(
            step.run({name: tf.constant(value) for name, value in before.items()}, features)
        )
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found["global_step"] == 1
    changed = 0
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        changed += not np.array_equal(value, before[name])
    assert changed > len(expected) / 2


@pytest.mark.slow
@pytest.mark.parametrize("program", STEPS)
def test_shapes_are_static_and_types_those_of_the_input(program):
    step = _step(program)
    assert all(spec.shape.is_fully_defined() for spec in step.batch.values())
    assert {spec.dtype for spec in step.batch.values()} == {tf.int32, tf.float32}
    specs = {spec.name: spec for spec in step.variables()}
    assert {spec.dtype for spec in specs.values()} == {tf.float32, tf.int64}  # also in bfloat16
    slots = [name for name in specs if name.endswith(("/adam_m", "/adam_v"))]
    trainable = [name for name, spec in specs.items() if spec.trainable]
    assert len(slots) == 2 * len(trainable) and len(trainable) > 20


def test_names_of_tpus():
    assert parse_topology("v3-8")[1] == 8 and parse_topology("v4-8")[1] == 4
    assert parse_topology("v5e-4")[0].memory == 16 * GIB
    for wrong in ("v3", "v9-8", "v4-7", "v3-0", "tpu"):
        with pytest.raises(ConfigError, match="--topology=.*e.g. v3-8"):
            parse_topology(wrong)


@pytest.mark.parametrize(
    ("largest", "start", "expected"),
    [(48, 16, 48), (50, 16, 48), (5, 16, 5), (8, 8, 8), (1, 4, 1), (100, 3, 96)],
)
def test_the_largest_batch_is_found(largest, start, expected):
    tried = []

    def compile_batch(size):
        tried.append(size)
        return Compiled(0, 0, size, 0, 0.0, 0.0, 0, None, 1.0) if size <= largest else None

    size, found = tpu_compile.find_largest(compile_batch, start)
    assert (size, found.temporaries) == (expected, expected)
    assert len(tried) == len(set(tried)) < 12
    assert tpu_compile.find_largest(lambda size: None, 4) == (4, None)


def test_the_report():
    found = Compiled(2 * GIB, 0, GIB, 0, 1e12, 2e9, 10**9, 0.4, 0.5)
    assert found.estimate == 0.5
    assert (
        replace(found, seconds=0.6).estimate == 0.6 and replace(found, seconds=None).estimate == 0.5
    )
    settings = _settings(train_steps=172800)
    report = tpu_compile.make_report(settings, 16, 4, found) | {"memory_of_device": 32 * GIB}
    assert (report["sequences_per_second"], report["days"]) == (128.0, 1.0)
    text = tpu_compile.format_report(report)
    assert "1.00 GB" in text and "0.4000 s" in text
    assert "3.00 of 32 GiB: fits" in text and "1.00 days" in text and "nothing was run" in text
    none = tpu_compile.make_report(settings, 16, 4, None) | {"memory_of_device": 32 * GIB}
    assert "does not fit in 32 GiB" in tpu_compile.format_report(none)
    json.dumps(report)


@pytest.mark.slow
def test_what_is_missing_is_named():
    flags = ["--topology=v4-8", "--model_config=tiny"]
    done = run_without(["jax", "libtpu"], [PROGRAM, *flags])
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: jax is not installed")
    assert "requirements/tpu-compile.txt" in line


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("program", "topology"),
    [
        ("electra", "v3-8"),
        ("mlm", "v4-8"),
        ("classifier", "v5e-4"),
        ("squad", "v6e-4"),
        ("race", "v4-8,v2-8"),
    ],
)
def test_it_compiles(program, topology, tmp_path, monkeypatch, capsys):
    """In this process: starting TensorFlow and JAX takes longer than compiling so small a step.

    The last case is lowered once for two TPUs.
    """
    for package in ("jax", "libtpu"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (requirements/tpu-compile.txt)")
    for name, value in COMPILER_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    output, config = tmp_path / "report.json", tmp_path / "net_config.json"
    sizes = {"d_model": 32, "d_embed": 32, "n_head": 2, "d_head": 16, "d_inner": 64}
    ModelConfig(500, block_size="1_1", decoder_size="1", **sizes).save_net_config(config)
    tpu_compile.run(
        _settings(
            program,
            topology=topology,
            model_config=str(config),
            batch_per_core=8,
            train_steps=1000,
            profile=True,
            output=str(output),
        )
    )
    printed = capsys.readouterr().out
    assert "fits" in printed and "kernels" in printed
    content = json.loads(output.read_text())
    reports = content if "," in topology else [content]
    assert [report["settings"]["topology"] for report in reports] == topology.split(",")
    assert len({report["figures"]["bytes_accessed"] for report in reports}) == len(reports)
    figures = reports[-1]["figures"]
    # Three float32 numbers per weight, 47,000 of them without a head.
    assert figures["arguments"] > 3 * 4 * 40_000
    assert figures["flops"] > 1e7 and figures["bytes_accessed"] > figures["arguments"]
    # The compiler also counts what is done inside of small kernels: its sum is far larger here.
    total = sum(operation["bytes"] for operation in figures["operations"])
    assert figures["arguments"] < total < figures["bytes_accessed"]
    assert figures["arguments"] / 2 < figures["hbm_bytes"] < total
    assert 0 < figures["seconds"] < 0.01 and 0 < figures["cycle_seconds"] < 0.01
