"""Bytes by operation of a compiled program, and the lines of ``--profile``."""

from dataclasses import asdict

from support_tf import import_tensorflow

import_tensorflow()

from funnel_tf.cli.tpu import program as tpu_compile
from funnel_tf.cli.tpu.settings import TpuCompileSettings
from funnel_tf.training.hlo_profile import OperationBytes, profile_bytes
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


def test_bytes_of_operands_and_results_by_operation():
    """Layers are taken together, operations of a scope not; nothing inside a fusion counts."""
    assert profile_bytes(HLO) == [
        OperationBytes("model/layer/ff/Add_1", 2, (2 * ARRAY + 2 * 128 + 4) + 2 * ARRAY),
        OperationBytes("copy-start", 1, 2 * ARRAY),
        OperationBytes("sub", 1, ARRAY + 4),
    ]
    assert profile_bytes("") == []


def test_the_report_has_the_largest_operations():
    operations = tuple(OperationBytes(f"op{i}", 1, 10**9 * (30 - i)) for i in range(30))
    found = Compiled(0, 0, 0, 0, 1.0, 1.0, None, operations)
    settings = TpuCompileSettings(topology="v3-8", model_config="tiny")
    report = tpu_compile.make_report(settings, 1, 8, found) | {"memory_of_device": 1}
    lines = tpu_compile.format_report(report).splitlines()
    assert lines[-20].split() == ["30.000", "6.5%", "1", "op0"] and lines[-1].endswith("op19")
    assert report["figures"]["operations"][0] == asdict(operations[0])
    plain = Compiled(0, 0, 0, 0, 1.0, 1.0, None)
    report = tpu_compile.make_report(settings, 1, 8, plain) | {"memory_of_device": 1}
    assert "kernels" not in tpu_compile.format_report(report)
