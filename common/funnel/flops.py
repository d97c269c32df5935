"""Parameters and floating-point operations of a model, and the relative FLOPs of the paper.

FLOPs are those of one forward pass, two per multiply-add, per sequence. All matrix products are
counted; look-ups, normalization, softmax, activations and sums are not (as in
``torch.utils.flop_counter``). With D = d_model, A = n_head * d_head, I = d_inner, Tq queries and
Tk keys, batch size B and R = s * Tq + Tk distances (s = 2, the pooling stride, if a block's first
layer pools its query only, else 1), one layer costs

    query and output projection    4 Tq D A      key and value projection    4 Tk D A
    feed-forward                   4 Tq D I      Q K and attention x V       4 Tq Tk A
    position scores (rel_shift)    2 Tq R A      segment scores              4 Tq A
    projection of the distances    2 R D A / B   (once per batch; cached in evaluation)

``factorized`` replaces both position terms by 2 Tq D A + 4 Tq Tk n_head D; the Transformer baseline
has neither position nor segment terms.

The ratios to BERT-base in the paper (Dai et al. 2020, section 3.1 and appendix) count less: each
executed layer costs D squared times the fraction of positions that its block keeps, so the ratio is
``(D / 768)^2 * sum over blocks of layers * 2^-block / 12``. Attention, relative terms and the
longer keys of pooling layers are not counted.

Run it: ``python -m funnel.flops --seq_len 128 512 --batch_size 64 [net_config.json ...]``
(from ``common/`` in a clone that is not installed; an installation has it as ``funnel-flops``).
``--advise --length=512 --device=v100`` prints what fits a device (:mod:`funnel.size_advice`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from funnel.checkpoints.names import expected_shapes
from funnel.cli.command import entry_point
from funnel.config.files import find_packaged_config
from funnel.config.geometry import BlockGeometry, encoder_geometry, relative_range
from funnel.config.model import BlockSpec, ModelConfig
from funnel.size_advice import Workload, find_device, format_advice, stored_numbers

BASELINE = "L12H768"
FORWARD_PASSES_PER_STEP = 3  # a backward pass costs two: gradients of inputs and of weights
# Relative FLOPs published in the paper, in the order of its tables.
PUBLISHED = {
    "L12H768": 1.0,
    "B4-4-4H768": 0.58,
    "B6-3x2-3x2H768": 0.88,
    "B6-6-6H768": 0.88,
    "L24H1024": 3.56,
    "B8-8-8H1024": 2.07,
    "B10-10-10H1024": 2.6,
}


@dataclass(frozen=True)
class LayerCost:
    """FLOPs of one executed layer per sequence, by the terms in the module's docstring."""

    query_output: float
    key_value: float
    feed_forward: float
    attention: float
    position: float
    position_table: float
    segment: float

    @property
    def total(self) -> float:
        """Sum of all terms."""
        return sum(astuple(self))


@dataclass(frozen=True)
class ModelCost:
    """FLOPs of one forward pass per sequence.

    Attributes:
        encoder: one cost per executed layer.
        decoder: likewise; empty without a decoder.
        input_projection: from ``d_embed`` to ``d_model``; 0 if they are equal.
    """

    encoder: tuple[LayerCost, ...]
    decoder: tuple[LayerCost, ...]
    input_projection: float

    @property
    def encoder_total(self) -> float:
        """Input projection and encoder layers."""
        return self.input_projection + sum(layer.total for layer in self.encoder)

    @property
    def total(self) -> float:
        """Encoder and decoder."""
        return self.encoder_total + sum(layer.total for layer in self.decoder)


def layer_cost(
    config: ModelConfig,
    query: BlockGeometry,
    key: BlockGeometry,
    batch_size: int = 1,
    segments: bool = True,
) -> LayerCost:
    """Return the cost of a layer attending from ``query`` to ``key`` positions."""
    width, inner = config.d_model, config.d_head * config.n_head
    queries, keys = query.length, key.length
    position = table = segment = 0.0
    if config.rel_attn_type == "rel_shift":
        distances = relative_range(query, key).count
        position = 2 * queries * distances * inner
        table = 2 * distances * width * inner / batch_size
    elif config.rel_attn_type == "factorized":
        position = 2 * queries * width * inner + 4 * queries * keys * config.n_head * width
    if segments and config.rel_attn_type != "null":
        segment = 4 * queries * inner
    return LayerCost(
        query_output=4 * queries * width * inner,
        key_value=4 * keys * width * inner,
        feed_forward=4 * queries * width * config.d_inner,
        attention=4 * queries * keys * inner,
        position=position,
        position_table=table,
        segment=segment,
    )


def model_cost(
    config: ModelConfig, seq_len: int, batch_size: int = 1, segments: bool = True
) -> ModelCost:
    """Return the cost of ``config`` on sequences of ``seq_len`` tokens.

    ``segments`` is whether segment ids are given.
    """
    geometry = encoder_geometry(config, seq_len)
    encoder: list[LayerCost] = []
    before = geometry[0]
    for block, spec in zip(geometry, config.blocks, strict=True):
        # The first layer of a pooled block attends from pooled queries to unpooled keys.
        key = before if block.pooled and config.pool_q_only else block
        encoder.append(layer_cost(config, block, key, batch_size, segments))
        later = layer_cost(config, block, block, batch_size, segments)
        encoder += [later] * (spec.layers - 1)
        before = block
    # The decoder works on all input positions.
    layer = layer_cost(config, geometry[0], geometry[0], batch_size, segments)
    decoder = (config.decoder or BlockSpec(0)).layers
    projected = config.d_embed != config.d_model
    projection = 2.0 * seq_len * config.d_embed * config.d_model if projected else 0.0
    return ModelCost(tuple(encoder), (layer,) * decoder, projection)


def pretraining_cost(
    config: ModelConfig,
    seq_len: int,
    num_predict: int,
    generator: ModelConfig | None = None,
    batch_size: int = 1,
) -> float:
    """Return the FLOPs of one forward pass of pretraining per record, output layers included.

    Args:
        config: the model; for ELECTRA the discriminator.
        seq_len: tokens of a record.
        num_predict: positions at which tokens are predicted.
        generator: ELECTRA's generator; None for masked language modelling.
        batch_size: records that share the projection of the distances.
    """
    predictor = generator or config
    width = predictor.d_embed
    # Projection to the embedding size, then scores of the vocabulary, at the predicted positions.
    prediction = 2.0 * num_predict * width * (predictor.d_model + predictor.vocab_size)
    total = model_cost(config, seq_len, batch_size).total + prediction
    if generator is not None:
        discriminator_head = 2.0 * seq_len * config.d_model * (config.d_model + 1)
        total += model_cost(generator, seq_len, batch_size).total + discriminator_head
    return total


def parameter_count(config: ModelConfig, decoder: bool = True) -> int:
    """Return the number of weights of the encoder and, on request, the decoder; without heads."""
    shapes = expected_shapes(config, decoder=decoder)
    return sum(math.prod(shape) for shape in shapes.values())


def training_workload(
    config: ModelConfig, seq_len: int, batch_size: int = 1, fused: bool = False
) -> Workload:
    """Return what a step of training the encoder needs; ``fused``: attention stores no scores."""
    flops = FORWARD_PASSES_PER_STEP * model_cost(config, seq_len, batch_size).encoder_total
    stored = stored_numbers(config, seq_len, fused)
    return Workload(parameter_count(config, decoder=False), stored, flops)


def paper_ratio(config: ModelConfig) -> float:
    """Return FLOPs relative to BERT-base as the paper counts them (see the module's docstring)."""
    kept = sum(
        spec.layers * config.pooling_size**-block for block, spec in enumerate(config.blocks)
    )
    return (config.d_model / 768) ** 2 * kept / 12


def load_sizes(paths: Iterable[str | Path] = ()) -> dict[str, ModelConfig]:
    """Load configs by name; without ``paths`` the sizes of the paper.

    Raises:
        ConfigError: a file is missing or wrong.
    """
    files = [Path(path) for path in paths] or [find_packaged_config(name) for name in PUBLISHED]
    return {_label(file): ModelConfig.load(file) for file in files}


def _label(file: Path) -> str:
    generic = file.stem in ("net_config", "net_config.pytorch", "config")
    return file.resolve().parent.name if generic else file.stem


def format_table(
    sizes: dict[str, ModelConfig], baseline: ModelConfig, seq_lens: Sequence[int], batch_size: int
) -> str:
    """Return the table that the program prints, one row per size."""
    header = ["size", "encoder M", "+decoder M"]
    for length in seq_lens:
        header += [f"GFLOPs@{length}", f"ratio@{length}", f"+dec@{length}"]
    rows = [[*header, "paper's count", "published"]]
    for name, config in sizes.items():
        row = [name]
        row += [f"{parameter_count(config, decoder) / 1e6:.1f}" for decoder in (False, True)]
        for length in seq_lens:
            cost = model_cost(config, length, batch_size)
            base = model_cost(baseline, length, batch_size).encoder_total
            row.append(f"{cost.encoder_total / 1e9:.3g}")
            row += [f"{flops / base:.3f}" for flops in (cost.encoder_total, cost.total)]
        published = f"{PUBLISHED[name]:g}" if name in PUBLISHED else "-"
        rows.append([*row, f"{paper_ratio(config):.3f}", published])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


EXPLANATION = f"""\
encoder M, +decoder M: parameters in millions, without heads and pooler.
GFLOPs: encoder, one sequence, forward, 2 per multiply-add; all matrix products, the projection of
  the distance table shared by the batch of {{batch_size}}. ratio: to {BASELINE} (BERT-base);
  +dec: the same with the decoder.
paper's count: (D/768)^2 * sum over blocks of layers * 2^-block / 12, without attention, relative
  positions and the unpooled keys of pooling layers. published: the paper's figures.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line, by default that of this process, and print the table."""
    parser = argparse.ArgumentParser(
        description="Parameters and FLOPs of the paper's sizes, or of the given configs.",
    )
    parser.add_argument("configs", nargs="*", help="config files or directories holding one")
    parser.add_argument("--seq_len", type=int, nargs="+", default=[128, 512], metavar="T")
    parser.add_argument("--batch_size", type=int, default=64)
    advice = parser.add_argument_group("choice of a size")
    advice.add_argument(
        "--advise", action="store_true", help="print batch, speed and time per epoch on a device"
    )
    advice.add_argument(
        "--device", default="cpu", help="cpu, t4, v100, a100, h100, h200, v3-8, ..."
    )
    advice.add_argument("--length", type=int, default=128, help="tokens per sequence")
    advice.add_argument("--memory", default="", help="of one chip, such as 16GB; default: its own")
    advice.add_argument("--examples", type=int, default=100_000, help="training set of an epoch")
    args = parser.parse_args(argv)
    if min(*args.seq_len, args.batch_size, args.length, args.examples) < 1:
        parser.error("--seq_len, --batch_size, --length and --examples must be at least 1")
    sizes = load_sizes(args.configs)
    if args.advise:
        device = find_device(args.device, args.memory)
        workloads = {
            name: training_workload(config, args.length, args.batch_size, device.fused)
            for name, config in sizes.items()
        }
        print(format_advice(workloads, args.length, args.device, device, args.examples))
        return
    baseline = ModelConfig.load(find_packaged_config(BASELINE))
    print(format_table(sizes, baseline, args.seq_len, args.batch_size))
    print()
    print(EXPLANATION.format(batch_size=args.batch_size), end="")


command = entry_point(main)

if __name__ == "__main__":
    command()
