"""Pretraining, from settings to checkpoints: what ``pretrain.py`` runs."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from functools import partial

from funnel.checkpoints import Checkpoint
from funnel.pretraining.masking import Masker, MaskingConfig, truncation_stride
from funnel.pretraining.record_index import RecordCollection, find_records
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.files import finite_json
from funnel_torch.cli import model_factory, processes, runs
from funnel_torch.cli.settings.pretrain import PretrainSettings
from funnel_torch.data.pretraining_loader import (
    PretrainBatchConfig,
    PretrainBatches,
    evaluation_batches,
)
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining
from funnel_torch.models.layers import recompute_layers
from funnel_torch.tasks.pretrain import (
    PretrainConfig,
    PretrainingModel,
    evaluate,
    make_meter,
    make_trainer,
)
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.fsdp import ShardedModel
from funnel_torch.training.mfu import peak_tflops
from funnel_torch.training.optimizer_import import AdamState, global_step, read_adam_state
from funnel_torch.training.trainer import RunOutput, Scores

logger = logging.getLogger("funnel_torch.pretrain")

_NEXT = {"score this model on other records": ("--eval_only", "--eval_split=test")}

HEADS: dict[str, type[PretrainingModel]] = {"mlm": MLMPretraining, "electra": ElectraPretraining}


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written."""

    run: runs.RunContext
    factory: model_factory.ModelFactory[PretrainingModel]
    model: PretrainingModel
    masker: Masker
    adam_state: AdamState | None


def run(settings: PretrainSettings) -> None:
    """Train or evaluate in this process, one of several perhaps."""
    with processes.start_processes(settings) as world:
        seed = processes.common_seed(settings, world)
        inputs = world.rank_zero_first(prepare, settings, world, seed)
        if settings.trains:
            train(settings, inputs, world)
            runs.close_run(inputs.run, world, _NEXT)
            return
        evaluator = Evaluator(settings, inputs, world)
        scores = evaluator(inputs.model.to(world.device))
        if world.is_rank_zero:
            print(json.dumps(finite_json(scores)))


def prepare(settings: PretrainSettings, world: DistributedContext, seed: int) -> RunInputs:
    """Check the settings and build the model; write nothing but the lock of the run."""
    settings.check()
    masking = dataclasses.asdict(settings.targets) | {"num_predict": settings.num_predict}
    seq_len = settings.records.seq_len
    masking_config = MaskingConfig(seq_len, **masking)  # refuses contradictions
    tokenizer = runs.load_tokenizer(settings, trains=settings.trains)
    config = settings.result_affecting_config() | {"vocabulary": tokenizer.fingerprint}
    run_context = runs.open_run(settings, config, seed, world, trains=settings.trains)
    head, arguments = HEADS[settings.task.loss_type], {"pretraining": settings.objective}
    factory = model_factory.make_factory(settings, head, tokenizer, seq_len, arguments)
    initial = None
    if run_context.checkpoint is None:
        initial = factory.read_initial(settings.optimizer_import.init_global_vars)
    model = factory.load(run_context.checkpoint, initial)
    adam_state = find_adam_state(settings, model, initial) if settings.trains else None
    stride = truncation_stride(model.config)
    masking_config = dataclasses.replace(masking_config, truncate_stride=stride)
    masker = Masker(masking_config, tokenizer.special, tokenizer.vocab_size)
    return RunInputs(run_context, factory, model, masker, adam_state)


def open_records(
    settings: PretrainSettings, split: str, tokenizer: Tokenizer, world: DistributedContext
) -> RecordCollection:
    """Find and check the record files of a split."""
    seq_len, uncased = settings.records.seq_len, tokenizer.uncased
    passes = settings.records.num_passes if split == "train" else 1
    directories = settings.task.record_dir
    records = world.rank_zero_first(
        find_records,
        *(directories, split, seq_len, uncased),
        num_passes=passes,
        tokenizer=tokenizer,
    )
    sizes = (records.num_examples, seq_len, len(records.files))
    logger.info("%s: %d records of %d tokens, %d files", split, *sizes)
    return records


def batch_config(
    settings: PretrainSettings, seed: int, world: DistributedContext
) -> PretrainBatchConfig:
    """Return the grouping and order of training records."""
    batches = settings.training.batches
    return PretrainBatchConfig(
        batches.batch_size,
        batches.grad_accum,
        batches.num_workers,
        pin_memory=world.device.type == "cuda",
        dataset=dataclasses.replace(settings.stream, seed=seed),
    )


class Evaluator:
    """Scores a model on the held-out records."""

    def __init__(
        self, settings: PretrainSettings, inputs: RunInputs, world: DistributedContext
    ) -> None:
        self.split, self._masker, self._world = settings.task.eval_split, inputs.masker, world
        self._records = open_records(settings, self.split, inputs.factory.tokenizer, world)
        self._batches = dataclasses.replace(
            batch_config(settings, inputs.run.seed, world),
            batch_size=settings.training.valid_bsz,
            grad_accum=1,
        )
        self._precision = settings.device.precision

    def __call__(self, model: PretrainingModel) -> Scores:
        """Return the metrics of the split, in every process."""
        world = self._world
        batches = evaluation_batches(
            self._records, self._masker, self._batches, world.rank, world.size
        )
        return {self.split: evaluate(model, batches, world, self._precision)}


def find_adam_state(
    settings: PretrainSettings, model: PretrainingModel, source: Checkpoint | None
) -> AdamState | None:
    """Return the Adam state of --init_ckpt, if it has one and it should be used.

    Raises:
        ConfigError: it has made all the steps asked for.
    """
    init, training = settings.init, settings.training
    path, optimizer = init.init_ckpt, training.optimizer.name
    if source is None or not settings.optimizer_import.init_global_vars:
        return None
    if not source.optimizer:
        logger.info("%s: holds no Adam moments: they start at zero", path)
        return None
    if optimizer != "funnel_adamw":
        logger.info("--optimizer=%s does not import Adam moments", optimizer)
        return None
    step = global_step(source.optimizer)
    if step >= training.train_steps:
        raise ConfigError(
            f"--train_steps={training.train_steps}: {path} has made {step} already; ask for "
            "more, or start at step 0 with --no-init_global_vars"
        )
    logger.info("%s: continuing after its step %d, with its Adam moments", path, step)
    return read_adam_state(model, source.optimizer)


def make_output(
    settings: PretrainSettings,
    inputs: RunInputs,
    batches: PretrainBatches,
    sharded: ShardedModel | None,
    world: DistributedContext,
) -> RunOutput:
    """Create the run's directory, its log and the meter of its speed."""
    model, factory = inputs.model, inputs.factory
    peak = settings.scale.peak_tflops or peak_tflops(world.device, settings.device.precision)
    lengths = (settings.records.seq_len, settings.num_predict)
    return runs.open_output(
        inputs.run,
        factory,
        factory.saver(model, sharded),
        world,
        meter=make_meter(model, batches, world, lengths, peak),
    )


def train(settings: PretrainSettings, inputs: RunInputs, world: DistributedContext) -> None:
    """Train to the last step, from the first or from the run's newest checkpoint."""
    run_context, model, seed = inputs.run, inputs.model, inputs.run.seed
    model.to(world.device)
    if settings.scale.recompute_layers:
        recompute_layers(model)
    sharded = ShardedModel(model, world) if settings.scale.fsdp else None

    records = open_records(settings, "train", inputs.factory.tokenizer, world)
    batches = PretrainBatches(
        records, inputs.masker, batch_config(settings, seed, world), world.rank, world.size
    )
    evaluator = None
    if settings.task.eval_split:
        evaluator = Evaluator(settings, inputs, world)
    output = make_output(settings, inputs, batches, sharded, world)

    training, precision = settings.training, settings.device.precision
    config = PretrainConfig(
        training.trainer(precision),
        training.optimizer,
        training.schedule(),
        seed,
        settings.device.compile,
    )
    trainer = make_trainer(model, batches, config, world, output, inputs.adam_state)
    directory = run_context.directory
    if directory is not None and directory.can_resume:
        trainer.restore(directory.load_state())
        logger.info("resumed at step %d", trainer.progress.step)
    logger.info(
        "%d steps of %d records (%.1f epochs) in %d processes on %s, %s",
        *(training.train_steps, batches.examples_per_step),
        training.train_steps / batches.steps_per_epoch,
        *(world.size, world.device, precision),
    )
    training.schedule().warn_of_warmup()
    with runs.explained_interruption(run_context, world):
        progress = trainer.train(None if evaluator is None else partial(evaluator, model))
    output.log.close()
    runs.record_ending(run_context, progress, precision)
