"""Compile the fused attention kernels for GPUs that need not be there.

Prints and records registers, spilled bytes and shared memory of every kernel, by the account of
the compiler that Triton brings along. It tells nothing about speed.

    python benchmarks/fused_compilation.py --architectures=80,90
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from harness import timing

HEAD_SIZE = 64
DTYPES = ("bf16", "fp16")
RATIOS = (1, 2)
COLUMNS = {
    "kernel": "kernel", "sm": "sm", "dtype": "dtype", "ratio": "keys per query",
    "registers": "registers", "spilled": "spilled bytes", "shared": "shared bytes",
}  # fmt: skip
_CONSTANT = "constexpr"


def argument_types(kernel: str, dtype: str) -> dict[str, Any]:
    """Return the types of the arguments of a kernel that uses everything, by name."""
    from funnel_torch.kernels import triton_tiles as tiles

    half, single, integer = f"*{dtype}", "*fp32", "*i32"
    inputs = tiles.Inputs(half, half, half, half, half, single, single, integer, integer, single)
    shared = {
        "inputs": inputs,
        "strides": tiles.Strides(*[("i32", "i32", "i32")] * 5),
        "sizes": tiles.Sizes("i32", "i32", "i32", "i32", "i32", "fp32", "fp32", "i32"),
        "saved": tiles.Saved(half, single, single),
    }
    own = {
        "forward": {"out": half, "log_sum": single},
        "backward_queries": {
            "dq": half, "d_position_query": half, "d_bonus": single, "d_cls_column": single,
        },
        "backward_keys": {"dk": half, "dv": half},
        "backward_positions": {"partial": single, "share": "i32"},
    }  # fmt: skip
    return {**shared, **own[kernel]}


def compile_kernel(kernel: str, architecture: int, dtype: str, ratio: int) -> dict[str, Any]:
    """Compile one kernel and return a row of the table."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from funnel_torch.kernels import triton_attention
    from funnel_torch.kernels.fused_attention import TILES

    constants = TILES[kernel].constants(ratio)
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages")}
    constants |= {"SIZE": HEAD_SIZE, "RATIO": ratio, "SEPARATE_CLS": True, "DROPOUT": True}
    values = {**constants, "PRECISION": "tf32"}
    function = getattr(triton_attention, kernel)
    types = {**argument_types(kernel, dtype), **dict.fromkeys(values, _CONSTANT)}
    signature = {name: types[name] for name in function.arg_names}
    source = ASTSource(
        function,
        signature,
        {(i,): values[name] for i, name in enumerate(signature) if name in values},
        dict(_divisible(signature)),
    )
    compiled = triton.compile(source, GPUTarget("cuda", architecture, 32), options)
    return {
        "kernel": kernel, "sm": architecture, "dtype": dtype, "ratio": ratio,
        **assemble(compiled.asm["ptx"]), "shared": compiled.metadata.shared,
    }  # fmt: skip


def _divisible(signature: dict[str, Any]) -> list[tuple[tuple[int, ...], list]]:
    """Say of pointers and strides that they are divisible by 16, as they are at run time."""
    found = []

    def visit(path: tuple[int, ...], entry: Any, is_stride: bool) -> None:
        if isinstance(entry, tuple):
            for i, part in enumerate(entry):
                visit((*path, i), part, is_stride)
        elif is_stride or entry.startswith("*"):
            found.append((path, [["tt.divisibility", 16]]))

    for i, (name, entry) in enumerate(signature.items()):
        visit((i,), entry, name == "strides")
    return found


def assemble(ptx: str) -> dict[str, int]:
    """Return registers and spilled bytes of a kernel, as the assembler reports them."""
    import triton

    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    target = re.search(r"\.target (\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [assembler, "-v", f"--gpu-name={target}", path, "-o", path.with_suffix(".cubin")]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = (
        int(re.search(pattern, report)[1])
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )
    return {"registers": registers, "spilled": spilled}


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--architectures", default="80,90", help="compute capabilities, e.g. 80,90")
    args = parser.parse_args()
    from funnel_torch.kernels.fused_attention import TILES, has_triton

    if not has_triton():
        raise ConfigError("Triton is not installed: pip install -r requirements/dev.txt")
    try:
        architectures = [int(text) for text in args.architectures.split(",")]
    except ValueError:
        raise ConfigError(f"--architectures={args.architectures}: write e.g. 80,90") from None
    dtypes = DTYPES[:1] if args.quick else DTYPES
    rows = [
        compile_kernel(kernel, *choice)
        for choice in itertools.product(architectures, dtypes, RATIOS)
        for kernel in TILES
    ]
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    chosen = {"head_size": HEAD_SIZE}
    print(timing.write_result("fused_compilation", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
