"""Bytes that a compiled program reads and writes, by the operation of the graph they come from.

Reads the text of an optimized HLO module. After fusion, every instruction of the entry computation
is a kernel: it reads its operands from memory and writes its result, and nothing between.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64"), 8),
}
_SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
_LAYOUT = re.compile(r"\{[^{}]*\}")
# "%name = type opcode(operands), attributes"; a type is a shape or a tuple of shapes.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
_OPERAND = re.compile(r"%([\w.-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# These name memory, or a part of it, and move nothing. A copy is counted where it starts.
_NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "copy-done",
}  # fmt: skip
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


def profile_bytes(text: str) -> list[OperationBytes]:
    """Return the operations of an HLO module, those with the most bytes first."""
    sizes: dict[str, int] = {}
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line in _entry_computation(text):
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        name, kind, opcode, rest = match.groups()
        sizes[name] = _size(kind)
        if opcode in _NO_TRAFFIC:
            continue
        operands = _OPERAND.findall(rest.split(")", 1)[0])
        read = sum(sizes.get(operand, 0) for operand in operands)
        written = read if opcode == "copy-start" else sizes[name]
        total = totals[_operation(line) or opcode]
        total[0] += 1
        total[1] += read + written
    found = [OperationBytes(name, *total) for name, total in totals.items()]
    return sorted(found, key=lambda operation: -operation.bytes)


def _entry_computation(text: str) -> list[str]:
    """Return the lines between ``ENTRY ... {`` and the closing brace."""
    start = re.search(r"^ENTRY .*$", text, re.MULTILINE)
    return text[start.end() :].split("\n}", 1)[0].splitlines() if start else []


def _size(kind: str) -> int:
    """Return the bytes of a type: those of its shapes, without the padding of their layout."""
    return sum(
        _BYTES.get(dtype, 0) * math.prod(int(size) for size in dims.split(",") if size)
        for dtype, dims in _SHAPE.findall(_LAYOUT.sub("", kind))
    )


def _operation(line: str) -> str:
    """Return the name in the graph of the instruction of a line, or nothing."""
    match = _OP_NAME.search(line)
    if match is None:
        return ""
    name = match[1].rsplit(";", 1)[-1]  # of a fusion: its last operation
    while prefix := _PREFIX.match(name):
        name = name[prefix.end() :]
    return _NUMBER.sub(r"\1", name)
