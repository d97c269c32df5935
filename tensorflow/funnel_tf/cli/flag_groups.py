"""The command-line flags of the TensorFlow programs, topic by topic, each with its default.

The set, the defaults and the meanings are those of the original programs (a test freezes them);
flags marked "new" are not in the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absl import flags as absl_flags

from funnel.config.optimizer import DECAY_METHODS, LAYER_DECAYS

TOKENIZERS = ("word_piece", "sent_piece")


class FlagSet:
    """Absl flags of one program in titled groups, apart from absl's global ones."""

    def __init__(self) -> None:
        self.values = absl_flags.FlagValues()
        self.values.set_gnu_getopt(True)
        self.groups: list[tuple[str, list[str]]] = []

    def group(self, title: str) -> Callable[..., None]:
        """Begin a group; what is returned adds a flag: name, type, default, help, choices."""
        names: list[str] = []
        self.groups.append((title, names))

        def add(name: str, kind: type, default: Any, help: str, choices: Any = None) -> None:
            define = {
                str: absl_flags.DEFINE_string,
                int: absl_flags.DEFINE_integer,
                float: absl_flags.DEFINE_float,
                bool: absl_flags.DEFINE_boolean,
            }[kind]
            names.append(name)
            if choices is None:
                define(name, default, help, flag_values=self.values)
            else:
                absl_flags.DEFINE_enum(
                    name, default, list(choices), help, self.values, case_sensitive=False
                )

        return add

    def alias(self, name: str, target: str) -> None:
        """Another name for a flag, not shown in the help."""
        absl_flags.DEFINE_alias(name, target, flag_values=self.values)


def add_run(flags: FlagSet, *, model_dir: str | None, train: bool, evaluate: bool = True) -> None:
    """Add what every training program has: what to do and where."""
    flag = flags.group("run")
    flag("do_train", bool, train, "train")
    if evaluate:
        flag("do_eval", bool, False, "evaluate checkpoints")
    flag("model_dir", str, model_dir, "output directory of the run")
    flag("init_checkpoint", str, None, "checkpoint to start from; DIR/latest: its newest")
    flag("model_config", str, "", "net_config.json; empty: the model flags below")
    flag("seed", int, None, "new: random seed; drawn (and recorded) if not given")
    flag("overwrite_run", bool, False, "new: delete the run that model_dir holds")
    flag("verbose", bool, False, "TensorFlow's own messages too")
    flags.alias("model_config_path", "model_config")


def add_training(
    flags: FlagSet, *, batch: int, steps: int, save: int | None, max_save: int, all_vars: bool
) -> None:
    """Add sizes and intervals of training."""
    flag = flags.group("training")
    flag("train_batch_size", int, batch, "examples per step, over all devices")
    flag("learning_rate", float, 1e-5, "peak learning rate")
    flag("train_steps", int, steps, "steps in all")
    flag("warmup_steps", int, 0, "steps of linear warm-up")
    flag("save_steps", int, save, "steps between checkpoints; none (or 0): the last step only")
    flag("max_save", int, max_save, "checkpoints kept while training; 0: all")
    flag("log_freq", int, 100, "steps between log lines and summaries")
    what = "take optimizer state too" if all_vars else "accepted; fine-tuning takes weights alone"
    flag("init_global_vars", bool, all_vars, f"from init_checkpoint: {what}")
    flag("deterministic", bool, True, "new: one seed, one order of the data; no: a little faster")


def add_optimizer(flags: FlagSet) -> None:
    """Add the optimizer in detail."""
    flag = flags.group("optimizer, in detail")
    flag("weight_decay", float, 0.0, "decoupled weight decay")
    flag("use_wd_exclusion", bool, False, "no decay for LayerNorm and bias variables")
    flag("clip", float, 1.0, "bound on the global gradient norm; 0 or less: none")
    flag("per_core_clip", bool, True, "clip each replica's gradient; no: their average")
    flag("skip_nan_grad", bool, False, "skip (and count) steps whose gradients are not finite")
    flag("decay_method", str, "poly", "decay after warm-up: linear or cosine", DECAY_METHODS)
    flag("min_lr_ratio", float, 0.0, "final (and first warm-up) learning rate / peak")
    flag("adam_beta1", float, 0.9, "decay of the first moment")
    flag("adam_beta2", float, 0.99, "decay of the second moment")
    flag("adam_epsilon", float, 1e-6, "added to the root of the second moment")
    flag("adam_correction", bool, True, "bias correction of the step size")
    flag("lr_layer_decay_rate", float, 1.0, "factor per layer downwards")
    flag("layer_decay", str, "gradient", "new: what it multiplies", LAYER_DECAYS)


def add_devices(flags: FlagSet, *, use_tpu: bool, cores: int) -> None:
    """Add where the graph runs."""
    flag = flags.group("devices")
    flag("use_tpu", bool, use_tpu, "TPU; no: CPU or GPU")
    flag("num_hosts", int, 1, "TPU hosts")
    flag("num_core_per_host", int, cores, "TPU cores per host; off TPUs: devices at most")
    flag("tpu", str, None, "TPU name; on a TPU VM: local")
    flag("tpu_zone", str, None, "its zone")
    flag("gcp_project", str, None, "its project")
    flag("tpu_job_name", str, None, "its job name")
    flag("master", str, None, "its address, instead of its name")
    flag("iterations", int, 1000, "TPU steps between two looks of the host")
    flag("use_bfloat16", bool, False, "products in bfloat16")


def add_model(flags: FlagSet) -> None:
    """Add the model's sizes, used without --model_config and for what --overwrite_keys names."""
    flag = flags.group("model (without --model_config, or named in --overwrite_keys)")
    flag("overwrite_keys", str, "", "comma list of settings taken from flags, not from the file")
    flag("block_size", str, "3_3_3", "encoder layout, e.g. 6_3x2_3x2")
    flag("decoder_size", str, "2", "decoder layout, P or PxR; 0: none")
    flag("d_model", int, 512, "hidden width")
    flag("d_embed", int, 512, "embedding width")
    flag("n_head", int, 8, "attention heads")
    flag("d_head", int, 64, "width of a head")
    flag("d_inner", int, 2048, "feed-forward width")
    flag("dropout", float, 0.1, "hidden dropout")
    flag("dropatt", float, 0.1, "attention dropout")
    flag("dropact", float, 0.0, "activation dropout")
    flag("ff_activation", str, "gelu", "relu, gelu or tanh")
    flag("pooling_type", str, "mean", "between blocks", ("mean", "max"))
    flag("pooling_size", int, 2, "pooling window and stride")
    flag("pool_q_only", bool, True, "a block's first layer pools its query alone")
    flag("separate_cls", bool, True, "[CLS] is never pooled")
    flag("truncate_seq", bool, True, "drop the last position before pooling")
    flag("rel_attn_type", str, "factorized", "factorized, rel_shift or null")
    flag("vocab_size", int, None, "filled in from the tokenizer")
    flag(
        *("init", str, "truncated_normal", "initial weights"),
        choices=("normal", "uniform", "truncated_normal"),
    )
    flag("init_std", float, 0.02, "standard deviation of the two normal ones")
    flag("init_range", float, 0.1, "half range of the uniform one")


def add_tokens(flags: FlagSet) -> None:
    """Add how text becomes ids."""
    flag = flags.group("tokens")
    flag("tokenizer_path", str, "", "vocab.txt or SentencePiece model")
    flag("tokenizer_type", str, "word_piece", "kind", TOKENIZERS)
    flag("uncased", bool, True, "lower-case and strip accents")
    for name, default, what in (
        ("a", 0, "the first text"),
        ("b", 1, "the second text"),
        ("cls", 2, "[CLS]"),
        ("pad", 0, "padding"),
    ):
        flag(f"seg_id_{name}", int, default, f"segment id of {what}")
    for name in ("bos", "cls", "eod", "eop", "eos", "mask", "pad", "sep", "unk"):
        flag(f"{name}_id", int, None, f"id of {name}: the tokenizer's; another one is refused")


def add_task_files(flags: FlagSet, *, length: int) -> None:
    """Add the record files of a fine-tuning program."""
    flag = flags.group("record files")
    flag("output_dir", str, "", "directory of the TFRecord files")
    flag("max_seq_length", int, length, "tokens per sequence")
    flag("shuffle_buffer", int, 2048, "examples shuffled among each other while training")


def add_sweep(flags: FlagSet) -> None:
    """Add which checkpoints are evaluated, and which are kept."""
    flag = flags.group("checkpoints to evaluate")
    flag("eval_all_ckpt", bool, True, "new: all of them; no: the last one")
    flag("eval_start_step", int, -1, "leave out checkpoints of this step and before")
    flag("eval_end_step", int, 10000000, "leave out checkpoints after this step")
    flag("retain_all", bool, False, "keep every checkpoint after training and evaluation")
    flag("retain_best", bool, False, "keep the best only; default: the best and the last")


def add_custom_task(flags: FlagSet) -> None:
    """Add the layout of the user's own files."""
    flag = flags.group("own data (--task_name=tsv|csv|jsonl); all new")
    flag("text_column", str, "text", "name or 0-based position")
    flag("text_b_column", str, None, "second text of pairs")
    flag("label_column", str, "label", "name or 0-based position")
    flag("labels", str, None, "comma list in the order of ids; default: read from the data")
    flag("regression", bool, False, "the label is a number")
    flag("train_file", str, None, "default train.<format> in data_dir")
    flag("dev_file", str, None, "default dev.<format>")
    flag("test_file", str, None, "default test.<format>")
    flag("header", bool, True, "the first line names the columns; no: columns have positions")
    flag("delimiter", str, None, "one character; default tab or comma")
    flag("metric", str, None, "main metric; default accuracy, or pearson_spearman")


def add_finetuning(flags: FlagSet, *, use_tpu: bool, steps: int, length: int) -> None:
    """Add what all fine-tuning programs share but for their own tasks."""
    add_training(flags, batch=128, steps=steps, save=None, max_save=0, all_vars=False)
    add_task_files(flags, length=length)
    add_sweep(flags)
    add_common(flags, use_tpu=use_tpu, cores=8)


def add_common(flags: FlagSet, *, use_tpu: bool, cores: int) -> None:
    """Add what all training programs share, the detailed groups last."""
    add_tokens(flags)
    add_devices(flags, use_tpu=use_tpu, cores=cores)
    add_optimizer(flags)
    add_model(flags)


def classifier_flags(flags: FlagSet) -> None:
    """Flags of ``classifier.py``."""
    flag = flags.group("what to run")
    flag("task_name", str, None, "task, e.g. RTE; or tsv, csv, jsonl for own files")
    flag("data_dir", str, "", "directory with the task's files")
    flag("do_submit", bool, False, "write the GLUE submission file(s)")
    flag("submit_dir", str, None, "where to; default model_dir/submit")
    flag("do_predict", bool, False, "write test_results.txt: the label of every test example")
    add_run(flags, model_dir="", train=False)
    add_evaluation(flags, batch=8)
    add_finetuning(flags, use_tpu=False, steps=40000, length=128)
    flag = flags.group("classification")
    flag("cls_scope", str, None, "scope of the head's variables; default: the task's name")
    flag("predict_batch_size", int, 8, "examples per step of prediction")
    flag("num_passes", int, 1, "how often the training examples are written")
    flag("shuffle_examples", bool, True, "shuffle them before writing")
    flag("overwrite_data", bool, False, "write the TFRecord files anew")
    flag("debug_mode", bool, False, "accepted and unused, as in the original")
    add_custom_task(flags)


def add_evaluation(flags: FlagSet, *, batch: int) -> None:
    """Add what ``classifier.py`` and ``race.py`` evaluate."""
    flag = flags.group("evaluation")
    flag("eval_split", str, "dev", "split to evaluate")
    flag("eval_batch_size", int, batch, "examples per step of evaluation")
    flag("eval_model_dir", str, "", "evaluate the checkpoints there, not those of model_dir")
    flag("overwrite", bool, False, "accepted; evaluation keeps no directory of its own")


def race_flags(flags: FlagSet) -> None:
    """Flags of ``race.py``."""
    flags.group("what to run")("data_dir", str, "", "RACE's directory, with train, dev and test")
    add_run(flags, model_dir="", train=False)
    add_evaluation(flags, batch=128)
    add_finetuning(flags, use_tpu=False, steps=40000, length=512)
    flag = flags.group("race")
    flag("max_qa_length", int, 128, "question and option keep their last tokens")
    flag("overwrite_data", bool, False, "write the TFRecord files anew")


def squad_flags(flags: FlagSet) -> None:
    """Flags of ``squad.py``."""
    flag = flags.group("what to run")
    flag("prepro_split", str, None, "train or eval: write that file of records and stop")
    flag("do_predict", bool, False, "predict with the checkpoints and evaluate them")
    flag("train_file", str, "", "training JSON")
    flag("predict_file", str, "", "JSON to predict, with answers")
    flag("predict_dir", str, "", "where prediction files go")
    flag("train_version", str, "v2", "v1 or v2")
    flag("eval_version", str, "v2", "v1 or v2")
    add_run(flags, model_dir="", train=False, evaluate=False)
    add_finetuning(flags, use_tpu=True, steps=5500, length=512)
    add_answers(flags)
    flag = flags.group("ensemble")
    flag("do_ensemble", bool, False, "average the answers of several checkpoints")
    flag("ensemble_ckpts", str, None, "comma list of checkpoints")
    flag("ensemble_output_file", str, "", "JSON with the answers")
    flag("na_threshold", float, 0.0, "null odds above it mean no answer, if not searched for")
    flag("search_threshold", bool, False, "search that threshold on the file to predict")


def add_answers(flags: FlagSet) -> None:
    """Add SQuAD's windows, answer head and beam."""
    flag = flags.group("questions and answers")
    flag("predict_batch_size", int, 128, "windows per step of prediction")
    flags.alias("eval_batch_size", "predict_batch_size")
    flag("target_eval_key", str, "best_f1", "metric that chooses the checkpoint; v1: f1")
    flag("doc_stride", int, 128, "tokens between the starts of two windows")
    flag("max_query_length", int, 64, "a question's first tokens are kept")
    flag("max_answer_length", int, 64, "tokens of the longest answer")
    flag("n_best_size", int, 5, "answers kept per question")
    flag("start_n_top", int, 5, "starts kept by the beam")
    flag("end_n_top", int, 5, "ends kept per start")
    flag("conditional_end", bool, True, "the end depends on the start")
    flag("use_answer_class", bool, True, "an output for answerability")
    flag("use_masked_loss", bool, True, "only the paragraph can be chosen")
    flag("ans_loss_weight", float, 0.5, "factor on start loss + end loss")
    flag("cls_loss_weight", float, 0.5, "factor on the answerability loss")
    flag("keep_accents", bool, False, "SentencePiece: keep accents")
    flag("num_proc", int, 1, "shards of the training file")
    flag("proc_id", int, 0, "which of them this process writes")
    flag("debug_mode", bool, False, "only the first 100 examples")


def pretrain_flags(flags: FlagSet) -> None:
    """Flags of ``pretrain.py``."""
    flag = flags.group("what to run")
    flag("loss_type", str, "mlm", "objective", ("mlm", "electra"))
    flag("record_dir", str, None, "comma list of directories with pretraining records")
    flag("seq_len", int, 0, "tokens per sequence, as in the records")
    flag("num_predict", int, None, "targets per sequence")
    flag("num_passes", int, 1, "records of passes below this number")
    add_run(flags, model_dir=None, train=True)
    flag = flags.group("evaluation")
    flag("eval_split", str, "dev", "split to evaluate")
    flag("eval_batch_size", int, 60, "sequences per step of evaluation")
    flag("max_eval_batch", int, -1, "steps of evaluation at most; below 0: all")
    flag("eval_ckpt_path", str, None, "evaluate this checkpoint alone; DIR/latest: the newest")
    flag("start_eval_steps", int, 200000, "first step to evaluate, where all checkpoints are")
    flag("overwrite", bool, False, "accepted and unused, as in the original")
    add_training(flags, batch=60, steps=100000, save=10000, max_save=100000, all_vars=True)
    flag = flags.group("masking and objective")
    strategies = ("single_token", "whole_word", "token_span", "word_span")
    flag("sample_strategy", str, "single_token", "how targets are chosen", strategies)
    flag("leak_ratio", float, 0.1, "share of targets left as they are")
    flag("rand_ratio", float, 0.1, "share of targets replaced by a random token")
    for unit in ("tok", "word"):
        flag(f"min_{unit}", int, 1, f"shortest span in {unit}s")
        flag(f"max_{unit}", int, 5, f"longest span in {unit}s")
    flag("hide_masked", bool, True, "new: MLM: [MASK] positions are hidden from attention")
    flag("disc_coeff", float, 50.0, "factor on the discriminator's loss")
    flag("width_shrink", float, 0.25, "the generator's width, of the model's")
    flag("shard_across_host", bool, True, "every host reads its share of the files")
    add_common(flags, use_tpu=True, cores=16)


def create_pretrain_data_flags(flags: FlagSet) -> None:
    """Flags of ``create_pretrain_data.py``."""
    flag = flags.group("text to records")
    flag("input_glob", str, "data/example/*.txt", "text files, one sentence a line")
    flag("save_dir", str, "proc_data/example", "output directory")
    flag("seq_len", int, 512, "tokens per sequence")
    flag("split", str, "train", "name of the split", ("train", "dev", "test"))
    flag("pass_id", int, 0, "number of this pass: other passes pair other texts")
    flag("num_task", int, 1, "workers in all")
    flag("task", int, 0, "number of this worker")
    flag("num_proc", int, None, "new: run all tasks instead, this many at a time")
    flag("min_doc_len", int, 1, "leave out documents with fewer tokens")
    flag("vocab_size", int, None, "filled in from the tokenizer")
    flag("verbose", bool, False, "new: debug messages too")
    add_tokens(flags)


PROGRAMS: dict[str, Callable[[FlagSet], None]] = {
    "pretrain": pretrain_flags,
    "classifier": classifier_flags,
    "squad": squad_flags,
    "race": race_flags,
    "create_pretrain_data": create_pretrain_data_flags,
}
