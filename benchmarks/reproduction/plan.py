"""The runs that a table of ``benchmarks/reproduce.py`` needs: which models, tasks and seeds.

Transformers (``6``: six layers) and Funnels (``2_2_2``) have one width, so they differ in depth and
pooling alone. Weights come from pretraining without pooling, which has no weights of its own
(docs/pretraining.md): one pretraining run per number of layers serves Transformer and Funnel.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from reproduction.tasks import AG_NEWS, FULL, IMDB, MNLI, SHORT, TINY, Task, cut

MLM, ELECTRA, RANDOM = "mlm", "electra", "random"
Flags = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """Sizes for a kind of machine.

    Attributes:
        model: overrides of ``configs/demo.json``.
        pretraining: flags of ``pretrain.py``.
        tasks, transformers, funnels: of the comparison of sizes.
        suite, suite_blocks: more tasks, and the few models that are fine-tuned on all of them.
        lr: learning rate of fine-tuning.
        seeds: of fine-tuning.
        pretraining_seed: of the one pretraining run that all seeds of fine-tuning start from; None
            pretrains once per seed.
        flags: of every training program.
    """

    model: Flags
    pretraining: Flags
    tasks: tuple[Task, ...]
    transformers: tuple[str, ...]
    funnels: tuple[str, ...]
    suite: tuple[Task, ...]
    suite_blocks: tuple[str, ...]
    lr: float = 5e-4
    seeds: tuple[int, ...] = (1, 2, 3)
    pretraining_seed: int | None = None
    flags: Flags = field(default_factory=dict)


_CPU = {"loss_type": MLM, "seq_len": 128, "num_predict": 48, "train_bsz": 8, "lr": 2e-3}
_GPU = {"loss_type": MLM, "seq_len": 128, "num_predict": 24, "train_bsz": 256, "lr": 1e-3}

SCALES = {
    # One core: three quarters of an hour of pretraining per corpus, two hours of fine-tuning.
    "cpu": Scale(
        model={"d_model": 128, "d_embed": 128, "n_head": 4, "d_head": 32, "d_inner": 512},
        pretraining=_CPU | {"warmup_steps": 500, "train_steps": 4000, "bf16": True},
        tasks=(cut(IMDB, 512, 500, 4, eval_rows=1000), AG_NEWS),
        transformers=("1", "2", "3", "4", "6"),
        funnels=("1_1", "1_1_1", "2_2", "2_2_2", "3_3"),
        suite=SHORT,
        suite_blocks=("6", "2_2_2", "3_3"),
        pretraining_seed=1,
        flags={"device_id": -1, "bf16": True},
    ),
    # Nine minutes a command on one GPU (--seconds=540), which continues where the last one stopped.
    "gpu": Scale(
        model={"d_model": 256, "d_embed": 256, "n_head": 4, "d_head": 64, "d_inner": 1024},
        pretraining=_GPU | {"warmup_steps": 1000, "train_steps": 20_000, "bf16": True},
        tasks=(IMDB, AG_NEWS, MNLI),
        transformers=("3", "4", "6", "8", "10"),
        funnels=("2_2_2", "3_3_3", "4_4_4", "5_5_5", "6_6_6"),
        suite=FULL,
        # The paper's B4-4-4 and B6-6-6 against its baseline of 12 layers, and half of that.
        suite_blocks=("6", "12", "2_2_2", "4_4_4", "6_6_6"),
        lr=3e-4,
        pretraining_seed=1,
        flags={"bf16": True},
    ),
    # Seconds, to see that everything runs.
    "smoke": Scale(
        model={"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32},
        pretraining=_CPU | {"warmup_steps": 1, "train_steps": 3, "seq_len": 32, "num_predict": 4},
        tasks=TINY[:1],
        transformers=("1",),
        funnels=("1_1",),
        suite=TINY,
        suite_blocks=("1", "1_1"),
        seeds=(1,),
        flags={"device_id": -1},
    ),
}


@dataclass(frozen=True)
class Pretraining:
    """A pretraining run; ``layers`` are those of one block without pooling."""

    layers: int
    loss_type: str
    corpus: str
    seed: int

    @property
    def key(self) -> str:
        """Name of the run, and of its folder."""
        corpus = self.corpus.rsplit("/", 1)[-1].split(".")[0]
        return f"pretrain-{self.loss_type}-{corpus}-L{self.layers}-seed{self.seed}"


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning run from ``start``, a pretraining run, or from random weights (None).

    Attributes:
        blocks: ``block_size`` of the model.
        overrides: further settings of the model, those of an ablation.
    """

    blocks: str
    task: Task
    seed: int
    start: Pretraining | None = None
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def initial(self) -> str:
        """``random``, ``mlm`` or ``electra``."""
        return RANDOM if self.start is None else self.start.loss_type

    @property
    def key(self) -> str:
        """Name of the run, and of its folder."""
        changes = "".join(f"-{name}={value}" for name, value in self.overrides)
        return f"{self.task.name}-{self.blocks}-{self.initial}-seed{self.seed}{changes}"


def count_layers(blocks: str) -> int:
    """Return the number of layers of a ``block_size`` such as ``2_2_2``."""
    return sum(int(block) for block in blocks.split("_"))


def plan_sizes(scale: Scale) -> list[FineTuning]:
    """Transformers and Funnels by size, pretrained by MLM and random: the paper's figure."""
    return [
        _start(blocks, task, seed, loss, scale)
        for task in scale.tasks
        for loss in (MLM, RANDOM)
        for seed in scale.seeds
        for blocks in scale.transformers + scale.funnels
    ]


def plan_objectives(scale: Scale) -> list[FineTuning]:
    """One Transformer and the Funnel of as many layers, by objective of pretraining."""
    funnel = scale.funnels[min(1, len(scale.funnels) - 1)]
    return [
        _start(blocks, task, seed, loss, scale)
        for seed in scale.seeds
        for task in scale.tasks
        for blocks in (str(count_layers(funnel)), funnel)
        for loss in (RANDOM, MLM, ELECTRA)
    ]


# Changes of the model that keep all weights, so that the same pretraining serves.
ABLATIONS: tuple[tuple[tuple[str, Any], ...], ...] = (
    (),
    (("pooling_type", "max"),),
    (("pool_q_only", False),),
    (("separate_cls", False),),
)


def plan_ablations(scale: Scale) -> list[FineTuning]:
    """One Funnel with its pooling changed."""
    blocks = scale.funnels[min(1, len(scale.funnels) - 1)]
    return [
        dataclasses.replace(_start(blocks, task, seed, MLM, scale), overrides=overrides)
        for seed in scale.seeds
        for task in scale.tasks
        for overrides in ABLATIONS
    ]


def plan_tasks(scale: Scale) -> list[FineTuning]:
    """Few models on many tasks, by objective; one seed after another, so that a part is a table."""
    return [
        _start(blocks, task, seed, loss, scale)
        for seed in scale.seeds
        for loss in (MLM, RANDOM, ELECTRA)
        for task in scale.suite
        for blocks in scale.suite_blocks
    ]


PLANS = {
    "sizes": plan_sizes,
    "objectives": plan_objectives,
    "ablations": plan_ablations,
    "tasks": plan_tasks,
}


def _start(blocks: str, task: Task, seed: int, loss: str, scale: Scale) -> FineTuning:
    if loss == RANDOM:
        return FineTuning(blocks, task, seed)
    first = seed if scale.pretraining_seed is None else scale.pretraining_seed
    start = Pretraining(count_layers(blocks), loss, task.corpus, first)
    return FineTuning(blocks, task, seed, start)


def fingerprint(run: FineTuning, scale: Scale) -> str:
    """Return the settings that a result depends on, as text."""
    facts = {"run": dataclasses.asdict(run), "model": scale.model, "lr": scale.lr}
    if run.start is not None:
        facts["pretraining"] = scale.pretraining
    return json.dumps(facts, sort_keys=True)
