"""Bytes by operation of a compiled program, and the lines of ``--profile``."""

from dataclasses import asdict

import pytest

from support_tf import import_tensorflow

import_tensorflow()

from funnel_tf.cli.tpu import program as tpu_compile
from funnel_tf.cli.tpu.settings import TpuCompileSettings
from funnel_tf.training import tpu_compiler
from funnel_tf.training.hlo_profile import HloProfile, OperationBytes, profile_hlo
from funnel_tf.training.tpu_compiler import Compiled

HLO = """HloModule jit_run, is_scheduled=true

%fused_computation (param_0: f32[8,128]) -> f32[8,128] {
  %param_0 = f32[8,128]{1,0} parameter(0)
  ROOT %inner = f32[8,128]{1,0} add(%param_0, %param_0)
}

ENTRY %main (a: f32[8,128], b: bf16[128]) -> (f32[8,128], pred[4]) {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0), metadata={op_name="tensors[0]"}
  %b = bf16[128]{0:T(256)(128)(2,1)} parameter(1)
  %one = (f32[8,128]{1,0:T(8,128)S(1)}, pred[4]{0}) fusion(%a, %b), kind=kLoop, \
calls=%fused_computation, metadata={op_name="jit(run)/call_tf/model_2/layer_0/ff/Mul;\
StatefulPartitionedCall/model_2/layer_0/ff/Add_1" stack_frame_id=2}
  %part = f32[8,128]{1,0} get-tuple-element(%one), index=0
  %two = f32[8,128]{1,0} fusion(%part), kind=kLoop, calls=%fused_computation, \
metadata={op_name="jit(run)/call_tf/StatefulPartitionedCall/model_2/layer_11/ff/Add_1"}
  %start = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[]) copy-start(%two)
  %done = f32[8,128]{1,0} copy-done(%start)
  %three = f32[]{} fusion(%done), kind=kLoop, calls=%fused_computation, \
metadata={op_name="jit(run)/call_tf/sub_7"}
  ROOT %result = (f32[8,128]{1,0}, pred[4]{0}) tuple(%done, %part)
}
"""
ARRAY = 8 * 128 * 4
# Weights move to memory on the chip, S(1), in the background; S(2) are counters.
PREFETCH = """HloModule jit_run, is_scheduled=true

ENTRY %main (a: f32[256], b: f32[256]) -> f32[256] {
  %a = f32[256]{0:T(256)} parameter(0)
  %b = f32[256]{0:T(256)} parameter(1)
  %copy-start = (f32[256]{0:T(256)S(1)}, f32[256]{0:T(256)}, u32[]{:S(2)}) copy-start(%a)
  %first = ((f32[256]{0:T(256)}), f32[128]{0:T(256)S(1)}, s32[]{:S(2)}) slice-start(%b), slice={}
  %second = ((f32[256]{0:T(256)}), f32[128]{0:T(256)S(1)}, s32[]{:S(2)}) slice-start(%b), slice={}
  %first-done = f32[128]{0:T(256)S(1)} slice-done(%first)
  %second-done = f32[128]{0:T(256)S(1)} slice-done(%second)
  %all = f32[256]{0:T(256)S(1)} custom-call(%first-done, %second-done), \
custom_call_target="ConcatBitcast", backend_config={"flag_configs":[]}
  %copy-done = f32[256]{0:T(256)S(1)} copy-done(%copy-start)
  %sum = f32[256]{0:T(256)S(1)} fusion(%all, %copy-done), kind=kLoop, calls=%add, \
backend_config={"window_config":{"estimated_cycles":"700"}}
  ROOT %last = f32[256]{0:T(256)} copy(%sum), \
backend_config={"window_config":{"estimated_cycles":"41"}}
}
"""


def test_bytes_of_operands_and_results_by_operation():
    """Layers are taken together, operations of a scope not; nothing inside a fusion counts."""
    assert profile_hlo(HLO).operations == (
        OperationBytes("model/layer/ff/Add_1", 2, (2 * ARRAY + 2 * 128 + 4) + 2 * ARRAY),
        OperationBytes("copy-start", 1, 2 * ARRAY),
        OperationBytes("sub", 1, ARRAY + 4),
    )
    assert profile_hlo("") == HloProfile((), 0, 0, 0)


def test_bytes_of_hbm_are_those_outside_of_the_chip():
    """A copy counts where it leaves or enters HBM; parts copied one by one are joined for free."""
    found = profile_hlo(PREFETCH)
    read_ahead, half, result = 256 * 4, 128 * 4, 256 * 4
    assert found.hbm_bytes == read_ahead + 2 * half + result
    assert (found.cycles, found.joins) == (700 + 41, 1)
    assert {o.operation: o.bytes for o in found.operations} == {
        "copy-start": 2 * read_ahead,
        "slice-start": 2 * 2 * half,
        "fusion": 3 * result,
        "copy": 2 * result,
    }


def test_the_report_has_the_largest_operations():
    operations = tuple(OperationBytes(f"op{i}", 1, 10**9 * (30 - i)) for i in range(30))
    found = Compiled(0, 0, 0, 0, 1.0, 1.0, 1, None, 1.0, operations)
    settings = TpuCompileSettings(topology="v3-8", model_config="tiny")
    report = tpu_compile.make_report(settings, 1, 8, found) | {"memory_of_device": 1}
    lines = tpu_compile.format_report(report).splitlines()
    assert lines[-20].split() == ["30.000", "6.5%", "1", "op0"] and lines[-1].endswith("op19")
    assert report["figures"]["operations"][0] == asdict(operations[0])
    plain = Compiled(0, 0, 0, 0, 1.0, 1.0, 1, None, 1.0)
    report = tpu_compile.make_report(settings, 1, 8, plain) | {"memory_of_device": 1}
    assert "kernels" not in tpu_compile.format_report(report)


def test_joins_are_added_back_where_they_were_counted():
    assert tpu_compiler._add_joins(-411.97, 412) == pytest.approx(0.03)
    assert tpu_compiler._add_joins(0.02, 412) == 0.02
    assert tpu_compiler._add_joins(-2.0, 0) is None and tpu_compiler._add_joins(0.0, 3) is None
