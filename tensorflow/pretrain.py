r"""Pretrain a Funnel-Transformer with masked language modelling or ELECTRA, and evaluate it.

    python tensorflow/pretrain.py --use_tpu=False --num_core_per_host=1 --loss_type=electra \
        --record_dir=DIR --model_dir=EXP --tokenizer_path=vocab.txt --train_batch_size=256 \
        --learning_rate=1e-4 --seq_len=512 --num_predict=85 --train_steps=1000000 \
        --warmup_steps=10000 --weight_decay=0.01 --block_size=6_6_6 --d_model=768 --d_embed=768 \
        --n_head=12 --d_inner=3072
    python tensorflow/pretrain.py --do_train=False --do_eval=True --eval_split=dev ...

Records come from create_pretrain_data.py. Evaluation looks at every checkpoint from step
--start_eval_steps on, or at --eval_ckpt_path alone. A run that was killed continues when the same
command is given again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import _paths  # noqa: F401

from funnel.config.heads import PretrainingConfig
from funnel.config.model import ModelConfig
from funnel.features.record_schema import pretraining_schema
from funnel.formats.tensor_bundle import resolve_prefix
from funnel.pretraining.masking import Masker, MaskingConfig, truncation_stride
from funnel.pretraining.record_index import RecordCollection, find_records
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.logging import MetricsLog
from funnel.utils.main import run_main
from funnel_tf.cli import flags as tf_flags
from funnel_tf.cli import runs as tf_runs
from funnel_tf.cli.flags import Flags
from funnel_tf.data.input_pipeline import (
    PRETRAIN_SHUFFLE,
    InputConfig,
    num_batches,
    pretrain_input_fn,
    report_corrupt_records,
)
from funnel_tf.models.electra import electra_graph, mlm_graph
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.estimator import (
    BuildGraph,
    Features,
    Graph,
    build_estimator,
    evaluate_graph,
    make_model_fn,
)
from funnel_tf.training.evaluation import evaluate_all, write_best
from funnel_tf.training.run_directory import SavedStep, saved_steps

logger = logging.getLogger(__name__)

OBJECTIVES = {"mlm": mlm_graph, "electra": electra_graph}


def check_flags(flags: Flags) -> None:
    """Refuse what cannot work, before any file is read."""
    if not (flags.do_train or flags.do_eval):
        raise ConfigError("nothing to do: --do_train, --do_eval or both are needed")
    tf_flags.check_given(flags, "record_dir", "seq_len", "model_dir")
    if flags.eval_split not in ("train", "dev", "test"):
        raise ConfigError(f"--eval_split={flags.eval_split}: should be train, dev or test")


def masking_config(flags: Flags, model: ModelConfig) -> MaskingConfig:
    """How the records are masked."""
    names = ("seq_len", "num_predict", "sample_strategy", "leak_ratio", "rand_ratio")
    spans = ("min_tok", "max_tok", "min_word", "max_word")
    return MaskingConfig(
        **{name: getattr(flags, name) for name in (*names, *spans)},
        truncate_stride=truncation_stride(model),
    )


def records_of(flags: Flags, tokenizer: Tokenizer, split: str) -> RecordCollection:
    """The records of a split."""
    found = find_records(
        flags.record_dir, split, flags.seq_len, tokenizer.uncased, flags.num_passes
    )
    logger.info(
        "%s: %d records of %d tokens in %d files",
        *(split, found.num_examples, found.seq_len, len(found.files)),
    )
    return found


def graph_of(flags: Flags, config: ModelConfig) -> BuildGraph:
    """The objective as a graph."""
    pretraining = PretrainingConfig(flags.hide_masked, flags.width_shrink, flags.disc_coeff)
    if flags.loss_type == "electra":
        pretraining.generator(config)  # refuses sizes that make no generator
    objective = OBJECTIVES[flags.loss_type]

    def build(features: Features, options: GraphOptions, mode: str) -> Graph:
        output = objective(config, features, options, pretraining)
        scalars = {"mlm_loss": output.mlm_loss}
        if output.disc_loss is not None:
            scalars["disc_loss"] = output.disc_loss
        return Graph(output.loss, metrics=output.metrics, scalars=scalars)

    return build


def train(
    flags: Flags, tokenizer: Tokenizer, config: ModelConfig, masker: Masker
) -> Callable[[], None]:
    """Train up to --train_steps from where model_dir stands; call the result when all is done."""
    directory = tf_runs.open_run(flags, tokenizer)
    collection = records_of(flags, tokenizer, "train")
    job = tf_runs.TrainingJob(
        config,
        graph_of(flags, config),
        lambda order: pretrain_input_fn(
            collection, masker, replace(order, shuffle_buffer=PRETRAIN_SHUFFLE)
        ),
        metadata={"vocab_path": str(tokenizer.path)},
        with_optimizer=flags.init_global_vars,
    )
    with damage_of(collection):
        step = tf_runs.train_model(flags, directory, job)
    return partial(directory.finish, step, flags.train_steps)


def damage_of(collection: RecordCollection) -> AbstractContextManager[None]:
    """Names what is wrong with one of its records."""
    files = [str(file.path) for file in collection.files]
    return report_corrupt_records(files, pretraining_schema(collection.seq_len))


def evaluate(flags: Flags, tokenizer: Tokenizer, config: ModelConfig, masker: Masker) -> None:
    """Score the checkpoints on --eval_split; the lowest loss is the best."""
    collection = records_of(flags, tokenizer, flags.eval_split)
    settings = tf_runs.run_settings(flags)
    if not flags.use_tpu:
        settings = replace(settings, num_core_per_host=1)
    estimator = build_estimator(settings, make_model_fn(graph_of(flags, config), settings))
    input_fn = pretrain_input_fn(collection, masker, InputConfig(is_training=False))
    count = num_batches(collection.num_examples, flags.eval_batch_size)
    if 0 < flags.max_eval_batch < count:
        count = flags.max_eval_batch

    def scores(checkpoint: Path) -> Mapping[str, Mapping[str, float]]:
        found = evaluate_graph(estimator, input_fn, checkpoint, count)
        loss = found["mlm_loss"] + flags.disc_coeff * found.get("disc_loss", 0.0)
        return {flags.eval_split: {"loss": loss, **found}}

    log = MetricsLog(flags.model_dir)
    with damage_of(collection):
        best = evaluate_all(checkpoints(flags), scores, log, higher_is_better=False)
    log.close()
    write_best(best, flags.model_dir)


def checkpoints(flags: Flags) -> list[SavedStep]:
    """The checkpoints to evaluate, by step."""
    if flags.eval_ckpt_path:
        prefix = resolve_prefix(flags.eval_ckpt_path)
        step = prefix.name.rpartition("-")[2]
        return [SavedStep(int(step) if step.isdigit() else 0, prefix)]
    every = saved_steps(flags.model_dir)
    found = [saved for saved in every if saved.step >= flags.start_eval_steps]
    if not found:
        logger.info(
            "%s: no checkpoint from --start_eval_steps=%d on; the last one, of step %d, is scored",
            *(flags.model_dir, flags.start_eval_steps, every[-1].step),
        )
    return found or every[-1:]


def main() -> None:
    """Train, evaluate or both."""
    flags = tf_runs.start_program("pretrain", __doc__)
    check_flags(flags)
    tokenizer = tf_flags.load_tokenizer(flags)
    config = tf_flags.model_config(flags, tokenizer)
    masker = Masker(masking_config(flags, config), tokenizer.special, tokenizer.vocab_size)
    finish = train(flags, tokenizer, config, masker) if flags.do_train else None
    if flags.do_eval:
        evaluate(flags, tokenizer, config, masker)
    if finish is not None:
        finish()


if __name__ == "__main__":
    run_main(main)
