"""What pooled blocks learn in short pretraining, and what helps them.

Pretrains a small Funnel in several ways (benchmarks/pooling/variants.py), one change each, on real
text, and measures on held-out records: the loss; the *worth* of the pooled blocks, that is how much
the loss rises when the decoder gets their mean in place of their outputs; and for every block
gradients, updates, the likeness of its outputs and their rank. One thread, minutes per run.

    python benchmarks/pooled_blocks.py --list
    python benchmarks/pooled_blocks.py                        # all; results are kept as they come
    python benchmarks/pooled_blocks.py --only=plain,late --seeds=1
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

import torch
from torch import nn

from funnel.config.heads import PretrainingConfig
from funnel.config.model import ModelConfig
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel.pretraining.dataset import DatasetConfig
from funnel.pretraining.masking import Masker, MaskingConfig, truncation_stride
from funnel.pretraining.record_index import RecordCollection
from funnel.tokenization import Tokenizer
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json
from funnel.utils.main import run_main
from funnel_torch.data.pretraining_loader import PretrainBatchConfig, PretrainBatches
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining
from funnel_torch.models.modeling import EncoderOutput, FunnelModel
from funnel_torch.models.pretraining_batch import PretrainingBatch
from funnel_torch.tasks.pretrain import PretrainingModel, model_inputs
from funnel_torch.training.optimizer import (
    FunnelAdamW,
    clip_gradients,
    parameter_groups,
    set_learning_rate,
)
from harness import corpora, timing
from pooling import measure
from pooling.figure import COLUMNS, draw, summarize
from pooling.variants import BLOCKS, ELECTRA, VARIANTS, Variant

CONFIG = timing.REPOSITORY / "configs" / "demo.json"
CPU = torch.device("cpu")
HELD_OUT = 64  # records
TARGETS = 48 / 128  # masked tokens per token


@dataclass(frozen=True)
class Settings:
    """Size of the runs: those of a batch of ``batch_size``, measured ``measurements`` times."""

    steps: int
    batch_size: int
    seq_len: int
    lr: float
    measurements: int = 10
    megabytes: float = 12.0


class Pretraining:
    """A run of one variant and seed."""

    def __init__(
        self,
        variant: Variant,
        seed: int,
        settings: Settings,
        records: RecordCollection,
        tokenizer: Tokenizer,
    ) -> None:
        self.variant, self.settings = variant, settings
        self.steps = round(settings.steps / variant.batch_scale)
        torch.manual_seed(seed)
        changes = BLOCKS | variant.model | {"dropout": 0.0, "dropatt": 0.0}
        config = ModelConfig.load(CONFIG).replace(vocab_size=tokenizer.vocab_size, **changes)
        self.model = make_model(variant, config)
        # Windows of one position: nothing is pooled, and everything else is the same.
        unpooled = config.replace(pooling_size=1, truncate_seq=False)
        self._unpooled = make_model(variant, unpooled)
        share_parameters(self.model, self._unpooled)
        self.blocks = measure.block_parameters(self.model.funnel)
        self.optimizer = self._make_optimizer()
        self.schedule = ScheduleConfig(settings.lr, self.steps, self.steps // 10)
        targets = round(TARGETS * settings.seq_len)
        masking = MaskingConfig(
            settings.seq_len, targets, truncate_stride=truncation_stride(config)
        )
        masker = Masker(masking, tokenizer.special, tokenizer.vocab_size)
        batch_size = round(settings.batch_size * variant.batch_scale)
        loading = PretrainBatchConfig(batch_size, dataset=DatasetConfig(seed=seed))
        self.batches = PretrainBatches(records, masker, loading)
        # Records of the first epoch that training does not reach, in one batch.
        whole = PretrainBatchConfig(HELD_OUT, dataset=DatasetConfig(seed=seed))
        first = -(-self.steps * batch_size // HELD_OUT)
        last = PretrainBatches(records, masker, whole)
        if first + 1 > last.steps_per_epoch:
            raise DataError(f"{records.num_examples} records: too few for {self.steps} steps")
        self.held_out = next(last.stream(first))[0]

    def _make_optimizer(self) -> FunnelAdamW:
        pooled = {
            id(weight)
            for name, weights in self.blocks.items()
            if name.startswith("block ") and name != "block 1"
            for weight in weights
        }
        groups = []
        for group in parameter_groups(self.model, OptimizerConfig(name="funnel_adamw")):
            for is_pooled in (False, True):
                chosen = [p for p in group["params"] if (id(p) in pooled) == is_pooled]
                scale = self.variant.pooled_lr if is_pooled else 1.0
                groups.append(group | {"params": chosen, "lr_scale": scale})
        return FunnelAdamW(groups)

    def run(self) -> Iterator[dict[str, Any]]:
        """Train; yield measurements before the first step and after equal numbers of steps."""
        every = max(1, self.steps // self.settings.measurements)
        yield self.evaluate(self._model_at(0), 0)
        for step, (batch,) in zip(range(self.steps), self.batches.stream(), strict=False):
            is_measured, model = (step + 1) % every == 0, self._model_at(step)
            norms = self.train_step(model, batch, step, is_measured)
            if is_measured:
                yield self.evaluate(model, step) | {"step": step + 1, "norms": norms}

    def _model_at(self, step: int) -> PretrainingModel:
        pools = step >= self.variant.unpooled_share * self.steps
        return self.model if pools else self._unpooled

    def _skip_dropout_at(self, step: int) -> float:
        if step < self.variant.no_skip_share * self.steps:
            return 1.0
        return self.variant.skip_dropout * max(0.0, 1.0 - 2 * step / self.steps)

    def train_step(
        self, model: PretrainingModel, batch: PretrainingBatch, step: int, measures: bool
    ) -> measure.Norms:
        """Make one step; return norms of gradients and updates if they are asked for."""
        model.train()
        with (
            skip_dropout(model.funnel, self._skip_dropout_at(step)),
            torch.autocast("cpu", torch.bfloat16),
        ):
            output = model(**model_inputs(model, batch, CPU))
        output.loss.backward()
        clip_gradients(model.parameters(), 1.0)
        set_learning_rate(self.optimizer, self.schedule.lr_at(step))
        norms: measure.Norms = {}
        if measures:
            norms = measure.measure_update(self.blocks, self.optimizer.step)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norms

    @torch.no_grad()
    def evaluate(self, model: PretrainingModel, step: int) -> dict[str, Any]:
        """Return the losses of the held-out records and a description of each block's outputs."""
        model.eval()
        funnel = model.funnel
        # Dropout belongs to training; a connection that is cut is none of the model then.
        with skip_dropout(funnel, float(self._skip_dropout_at(step) == 1.0)):
            with measure.observed(funnel) as seen:
                loss = self._loss(model)
            with measure.without_pooled_states(funnel):
                worth = self._loss(model) - loss
        assert seen.encoded is not None
        return {
            "step": step, "loss": loss, "worth": worth,
            "skip_share": measure.skip_share(funnel, seen.encoded),
            "states": {name: measure.describe_states(h) for name, h in seen.blocks.items()},
        }  # fmt: skip

    def _loss(self, model: PretrainingModel) -> float:
        output = model(**model_inputs(model, self.held_out, CPU))
        return float(output.mlm_loss if output.disc_loss is None else output.disc_loss)


def make_model(variant: Variant, config: ModelConfig) -> PretrainingModel:
    """Return a model with fresh weights for the variant's objective."""
    if variant.loss_type != ELECTRA:
        return MLMPretraining(config)
    return ElectraPretraining(config, PretrainingConfig(width_shrink=0.5, disc_coeff=10.0))


def share_parameters(model: nn.Module, other: nn.Module) -> None:
    """Give ``other``, a model of the same parameters, those of ``model``."""
    for name, module in other.named_modules():
        for key, parameter in model.get_submodule(name).named_parameters(recurse=False):
            setattr(module, key, parameter)


@contextmanager
def skip_dropout(model: FunnelModel, rate: float) -> Iterator[None]:
    """Drop whole positions of the skip connection, as dropout drops single values."""

    def drop(module: nn.Module, inputs: tuple[EncoderOutput]) -> tuple[EncoderOutput]:
        skip = inputs[0].skip_connection
        kept = nn.functional.dropout(torch.ones_like(skip[..., :1]), rate)
        return (inputs[0]._replace(skip_connection=skip * kept),)

    if not rate:
        yield
        return
    handle = model.decoder.register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def load_runs(path: Path) -> dict[str, dict[str, Any]]:
    """Return the runs of a results file by name; none if there is no such file."""
    if not path.exists():
        return {}
    return {run["run"]: run for run in json.loads(path.read_text(encoding="utf-8"))["runs"]}


def save_runs(path: Path, settings: Settings, runs: dict[str, dict[str, Any]]) -> None:
    """Write a results file: a table, and every measurement of every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = [runs[name] for name in sorted(runs)]
    head = {"machine": timing.machine(), "settings": asdict(settings), "columns": COLUMNS}
    atomic_write_json(path, head | {"rows": summarize(ordered), "runs": ordered})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--only", default=",".join(VARIANTS), help="variants, separated by commas (all)")
    flag("--seeds", default="1,2", help="seeds, separated by commas (%(default)s)")
    flag("--list", action="store_true", help="print the variants")
    flag("--steps", type=int, default=2000, help="steps of --batch_size records (%(default)s)")
    flag("--batch_size", type=int, default=8, help="records of a step (%(default)s)")
    flag("--seq_len", type=int, default=128, help="tokens of a record (%(default)s)")
    flag("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    flag("--data_dir", type=Path, help="real text, see harness/corpora.py")
    flag("--megabytes", type=float, default=12.0, help="of text (%(default)s)")
    flag("--output", type=Path, default=timing.RESULTS / "pooled_blocks.json", help="results")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    names = args.only.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise DataError(f"--only={unknown[0]}: none of {', '.join(VARIANTS)}")
    if args.list:
        for name in names:
            print(f"{name:<14}{VARIANTS[name].change}")
        return
    settings = Settings(
        args.steps, args.batch_size, args.seq_len, args.lr, megabytes=args.megabytes
    )
    runs = load_runs(args.output)
    with tempfile.TemporaryDirectory() as folder:
        records, tokenizer = corpora.write_records(
            corpora.find_data(args.data_dir), ModelConfig.load(CONFIG).vocab_size,
            settings.seq_len, int(1e6 * settings.megabytes), Path(folder),
        )  # fmt: skip
        for seed, name in itertools.product(args.seeds.split(","), names):
            key, facts = f"{name}-seed{seed}", {"settings": asdict(settings), "variant": name}
            if runs.get(key, {}).get("settings") == facts["settings"]:
                continue
            run = Pretraining(VARIANTS[name], int(seed), settings, records, tokenizer)
            measurements = list(run.run())
            runs[key] = {"run": key, **facts, "seed": int(seed), "measurements": measurements}
            save_runs(args.output, settings, runs)
            last = measurements[-1]
            print(f"{key}: loss {last['loss']:.3f}, worth {last['worth']:.3f}", flush=True)
    print(timing.markdown(summarize(runs.values()), COLUMNS))
    draw(runs.values(), args.output.with_suffix(".png"))


if __name__ == "__main__":
    run_main(main)
