"""What the text of an optimized HLO module says of a program: bytes by operation, HBM, cycles.

After fusion, every instruction of the entry computation is a kernel: it reads its operands from
memory and writes its result, and nothing between. Memory is HBM, or memory on the chip that the
compiler fills ahead of time: there the layout of a shape has a space, ``{1,0:T(8,128)S(1)}``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64"), 8),
}
_SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](\{[^{}]*\})?")
# "%name = type opcode(operands), attributes"; a type is a shape or a tuple of shapes.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
_OPERAND = re.compile(r"%([\w.-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# These name memory, or a part of it, and move nothing. A copy is counted where it starts.
_NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "copy-done",
    "slice-done",
}  # fmt: skip
# Names parts that were copied one by one as a whole. It does nothing, and the compiler's estimate
# of the time counts it as -1 s.
_JOIN = 'custom_call_target="ConcatBitcast"'
# What tracing puts in front of the names of the graph.
_PREFIX = re.compile(r"^(jit\(\w+\)|call_tf|StatefulPartitionedCall)/")
# The number of a layer, or of a second scope of the same name; outside scopes, of an operation.
_NUMBER = re.compile(r"_\d+(?=/)|^([^/]+?)_\d+$")


@dataclass(frozen=True)
class OperationBytes:
    """The instructions that come from one operation of the graph, in all layers.

    Attributes:
        operation: name in the graph without the numbers of layers, ``model/encoder/layer/ff/Add``;
            the opcode for an instruction without a name.
        instructions: how many there are.
        bytes: size of their operands and results.
    """

    operation: str
    instructions: int
    bytes: int


@dataclass(frozen=True)
class HloProfile:
    """A compiled program.

    Attributes:
        operations: bytes by operation, those with the most first.
        hbm_bytes: bytes read from and written to HBM.
        cycles: of all kernels, by the compiler's schedule of each.
        joins: instructions that the compiler's estimate of the time counts as -1 s each.
    """

    operations: tuple[OperationBytes, ...]
    hbm_bytes: int
    cycles: int
    joins: int


def profile_hlo(text: str) -> HloProfile:
    """Return what the text of an optimized HLO module says."""
    sizes: dict[str, _Size] = {}
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    hbm = cycles = joins = 0
    for line in _entry_computation(text):
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        name, kind, opcode, rest = match.groups()
        shapes = _sizes(kind)
        sizes[name] = _add(shapes)
        cycles += sum(map(int, _CYCLES.findall(line)))
        joins += _JOIN in line
        if opcode in _NO_TRAFFIC or _JOIN in line:
            continue
        if opcode in ("copy-start", "slice-start"):
            moved = _moved(opcode, shapes)
        else:
            operands = _OPERAND.findall(rest.split(")", 1)[0])
            moved = _add([sizes[name], *(sizes[one] for one in operands if one in sizes)])
        total = totals[_operation(line) or opcode]
        total[0] += 1
        total[1] += moved.bytes
        hbm += moved.hbm
    found = sorted((OperationBytes(name, *t) for name, t in totals.items()), key=lambda o: -o.bytes)
    return HloProfile(tuple(found), hbm, cycles, joins)


class _Size(NamedTuple):
    """Bytes without the padding of layouts, and those of them that are in HBM."""

    bytes: int
    hbm: int


def _add(sizes: Iterable[_Size]) -> _Size:
    sizes = list(sizes)
    return _Size(sum(size.bytes for size in sizes), sum(size.hbm for size in sizes))


def _moved(opcode: str, shapes: list[_Size]) -> _Size:
    """Return the traffic of a copy that runs meanwhile: what arrives is read and written.

    Its type has the source and where it goes, and last a counter.
    """
    source, goal = (shapes[0], shapes[-2]) if opcode == "slice-start" else (shapes[1], shapes[0])
    sides_in_hbm = bool(source.hbm) + bool(goal.hbm)
    return _Size(2 * goal.bytes, sides_in_hbm * goal.bytes)


def _entry_computation(text: str) -> list[str]:
    """Return the lines between ``ENTRY ... {`` and the closing brace."""
    start = re.search(r"^ENTRY .*$", text, re.MULTILINE)
    return text[start.end() :].split("\n}", 1)[0].splitlines() if start else []


def _sizes(kind: str) -> list[_Size]:
    """Return the sizes of the shapes of a type."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(kind):
        size = _BYTES.get(dtype, 0) * math.prod(int(n) for n in dims.split(",") if n)
        found.append(_Size(size, 0 if "S(" in layout else size))
    return found


def _operation(line: str) -> str:
    """Return the name in the graph of the instruction of a line, or nothing."""
    match = _OP_NAME.search(line)
    if match is None:
        return ""
    name = match[1].rsplit(";", 1)[-1]  # of a fusion: its last operation
    while prefix := _PREFIX.match(name):
        name = name[prefix.end() :]
    return _NUMBER.sub(r"\1", name)
