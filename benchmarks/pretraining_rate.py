"""Tokens per second of pretraining, with its input and bookkeeping, and of the bare model step.

The bare step computes on one batch that is on the device: forward, backward, optimizer. The trainer
reads, masks and copies every batch, draws the noise of the samples, clips gradients, schedules,
logs and counts, as pretrain.py does. Both take turns.

    python benchmarks/pretraining_rate.py --clock=cpu
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

import torch

from funnel.config.heads import PretrainingConfig
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel.pretraining.masking import Masker, MaskingConfig, truncation_stride
from funnel.utils.main import run_main
from funnel_torch.data.pretraining_loader import (
    InputWait,
    PretrainBatchConfig,
    PretrainBatches,
)
from funnel_torch.models.electra import ElectraPretraining
from funnel_torch.tasks.pretrain import (
    PretrainConfig,
    PretrainingMeter,
    make_meter,
    make_trainer,
    model_inputs,
)
from funnel_torch.training.config import TrainerConfig
from funnel_torch.training.devices import autocast
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.mfu import peak_tflops
from funnel_torch.training.trainer import RunOutput
from harness import baselines, corpora, timing

BARE, TRAINER = "bare model step", "trainer with its input"
COLUMNS = {
    "label": "what", "ms": "ms per step", "tokens_per_second": "tokens/s", "mfu": "MFU",
    "share": "of the bare step's", "wait": "waited for input, s",
}  # fmt: skip
_TARGETS_PER_TOKEN = 85 / 512


@dataclass(frozen=True)
class Settings:
    """One setting: ``steps`` are those of a round."""

    config: str
    seq_len: int
    batch_size: int
    steps: int
    precision: str = "fp32"
    num_workers: int = 0
    megabytes: float = 2.0
    width_shrink: float = 0.25


GPU = Settings("B4-4-4H768", 512, 64, 25, "bf16", num_workers=4, megabytes=16.0)
CPU = Settings("small-cpu", 128, 32, 4)
DRY = Settings("tiny", 32, 4, 2, megabytes=0.05, width_shrink=0.5)


class Rounds:
    """Batches of which every call of ``stream`` yields the next few, from one running loader."""

    def __init__(self, batches: PretrainBatches, steps: int) -> None:
        self._batches, self._steps = batches, steps
        self._running = batches.stream()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def stream(self, first_step: int = 0) -> Iterator[Any]:
        """Yield the batches of one round, wherever training stands."""
        return itertools.islice(self._running, self._steps)


def make_cases(
    settings: Settings, device: torch.device, folder: Path, data: Path | None
) -> tuple[dict[str, Callable[[], object]], PretrainingMeter, InputWait]:
    """Return a round of each case, and the trainer's meter and waiting time."""
    config = baselines.load_config(settings.config)
    size = int(1e6 * settings.megabytes)
    records, tokenizer = corpora.write_records(
        data, config.vocab_size, settings.seq_len, size, folder
    )
    targets = max(1, round(_TARGETS_PER_TOKEN * settings.seq_len))
    stride = truncation_stride(config)
    masking = MaskingConfig(settings.seq_len, targets, truncate_stride=stride)
    masker = Masker(masking, tokenizer.special, tokenizer.vocab_size)
    loading = PretrainBatchConfig(
        settings.batch_size, num_workers=settings.num_workers, pin_memory=device.type == "cuda"
    )
    batches = PretrainBatches(records, masker, loading)
    torch.manual_seed(0)
    with torch.device(device):
        model = ElectraPretraining(config, PretrainingConfig(width_shrink=settings.width_shrink))
    total = 10**6
    training = PretrainConfig(
        TrainerConfig(total, settings.precision, log_steps=settings.steps, save_minutes=0),
        OptimizerConfig(name="funnel_adamw"),
        ScheduleConfig(baselines.LEARNING_RATE, total, 0),
    )
    world = DistributedContext(0, 1, device)
    meter = make_meter(model, batches, world, (settings.seq_len, targets), None)
    rounds: Any = Rounds(batches, settings.steps)
    trainer = make_trainer(model, rounds, training, world, RunOutput(meter=meter))
    (batch,) = next(batches.stream())
    inputs = model_inputs(model, batch, device) | {"batch": batch.to(device)}

    def take_bare_steps() -> None:
        for _ in range(settings.steps):
            with autocast(device, settings.precision):
                loss = model(**inputs).loss
            loss.backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad(set_to_none=True)

    return {BARE: take_bare_steps, TRAINER: trainer.train}, meter, batches.wait


def run(
    settings: Settings,
    args: argparse.Namespace,
    device: torch.device,
    folder: Path,
    allows_more: Callable[[], bool] = lambda: True,
) -> Path:
    """Measure rounds, ``args.repeats`` on a CPU and as many as the time allows on a GPU.

    Results are written after every round.
    """
    data = corpora.find_data(getattr(args, "data_dir", None))
    cases, meter, waited = make_cases(settings, device, folder, data)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    timing.interleave(cases, 1, 0, args.clock, synchronize)
    before = waited.seconds
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    number, limit = 0, args.repeats if device.type == "cpu" else 10**6
    while not number or (number < limit and allows_more()):
        for name, found in timing.interleave(cases, 1, 0, args.clock, synchronize).items():
            seconds[name] += found
        number += 1
        peak = peak_tflops(device, settings.precision)
        rows = [_row(name, seconds, settings, meter, peak) for name in cases]
        rows[1]["wait"] = waited.seconds - before
        chosen = dataclasses.asdict(settings) | {"rounds": number, "clock": args.clock}
        path = timing.write_result("pretraining_rate", rows, args.output_dir, chosen, COLUMNS)
    print(f"{timing.markdown(rows, COLUMNS)}\n\n{path}")
    return path


def _row(
    name: str,
    seconds: dict[str, list[float]],
    settings: Settings,
    meter: PretrainingMeter,
    peak: float | None,
) -> timing.Row:
    each = statistics.median(seconds[name]) / settings.steps
    return {
        "label": name,
        "ms": 1e3 * each,
        "tokens_per_second": meter.tokens_per_step / each,
        "mfu": None if peak is None else meter.flops_per_step / each / 1e12 / peak,
        "share": timing.median_ratio(seconds[BARE], seconds[name]),
        "seconds": seconds[name],
    }


def main() -> None:
    parser = timing.parser(__doc__)
    parser.set_defaults(threads=os.cpu_count())
    parser.add_argument("--steps", type=int, default=CPU.steps, help="steps per round")
    parser.add_argument("--batch_size", type=int, default=CPU.batch_size)
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    args = parser.parse_args()
    settings = dataclasses.replace(CPU, steps=args.steps, batch_size=args.batch_size)
    if args.quick:
        settings, args.repeats, args.threads = DRY, 1, 1
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        run(settings, args, torch.device("cpu"), Path(folder))


if __name__ == "__main__":
    run_main(main)
