"""Write what a model computes for given texts or token ids: hidden states, summary, logits.

    python pytorch/extract_features.py --model CKPT --text lines.txt --output features.npz
    python pytorch/extract_features.py --model CKPT --ids batch.npz --output features.npz

The output holds float32 arrays `embedding` [B,T,E], `hidden_0` ... (one [B,T',D] per executed
encoder layer), `decoder` [B,T,D] if the model has one, `summary` [B,D] and
`discriminator_logits` [B,T] (positive = original token) if the checkpoint has those weights; with
--text also the token ids they belong to. --ids reads `input_ids` and, if there, `token_type_ids`
(0, 1, 2 = [CLS]) and `attention_mask` (1 = real token), each [B,T].
"""

from __future__ import annotations

import argparse

import _paths  # noqa: F401

import numpy as np
import torch
from tqdm import trange

from funnel import cli
from funnel.checkpoints import Checkpoint, load_checkpoint
from funnel.errors import ConfigError
from funnel.extraction import ModelInputs, read_ids, read_text, write_arrays
from funnel.tokenization import get_tokenizer
from funnel_torch.extraction import FeatureExtractor


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="checkpoint of any supported kind")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="text file: one text per line, a tab between two of a pair")
    source.add_argument("--ids", help=".npz file with input_ids (token_type_ids, attention_mask)")
    parser.add_argument("--output", required=True, help=".npz file to write")
    model = parser.add_argument_group("model")
    model.add_argument("--model_config", help="config file, if not beside the weights")
    forms = ("rel_shift", "factorized")
    model.add_argument("--attn_type", choices=forms, help="how relative attention is computed")
    truncate = argparse.BooleanOptionalAction
    model.add_argument(
        "--truncate_seq", action=truncate, help="drop the last position before pooling (default)"
    )
    text = parser.add_argument_group("text")
    kinds = ("word_piece", "sent_piece")
    text.add_argument("--tokenizer_type", default="word_piece", choices=kinds, help="its kind")
    text.add_argument("--tokenizer_path", help="vocabulary, if not beside the weights")
    text.add_argument("--cased", action="store_true", help="do not lower-case")
    text.add_argument("--max_length", type=int, default=512, help="tokens kept of a text")
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, default=32, help="sequences computed at a time")
    run.add_argument("--device_id", type=int, default=0, help="GPU to use; -1 for the CPU")
    return parser.parse_args()


def load_inputs(flags: argparse.Namespace, checkpoint: Checkpoint) -> ModelInputs:
    """The token ids to run on, from either kind of file."""
    if flags.ids:
        return read_ids(flags.ids, checkpoint.config.vocab_size)
    vocabulary = flags.tokenizer_path or checkpoint.metadata.get("vocab_path")
    if not vocabulary:
        raise ConfigError(f"{flags.model}: no vocabulary beside the weights; set --tokenizer_path")
    tokenizer = get_tokenizer(flags.tokenizer_type, vocabulary, uncased=not flags.cased)
    if tokenizer.vocab_size > checkpoint.config.vocab_size:
        raise ConfigError(
            f"{vocabulary}: {tokenizer.vocab_size} tokens do not fit the model's vocab_size "
            f"{checkpoint.config.vocab_size}"
        )
    return read_text(flags.text, tokenizer, flags.max_length)


def build_extractor(flags: argparse.Namespace, checkpoint: Checkpoint) -> FeatureExtractor:
    """The model on its device, with the flags' run-time switches."""
    changes = {"rel_attn_type": flags.attn_type, "truncate_seq": flags.truncate_seq}
    given = {key: value for key, value in changes.items() if value is not None}
    if checkpoint.config.rel_attn_type == "null" and flags.attn_type:
        raise ConfigError("--attn_type: this model has no relative attention (rel_attn_type null)")
    extractor = FeatureExtractor.from_checkpoint(checkpoint, **given)
    use_gpu = flags.device_id >= 0 and torch.cuda.is_available()
    return extractor.to(f"cuda:{flags.device_id}" if use_gpu else "cpu")


def main() -> None:
    flags = parse_flags()
    if flags.batch_size < 1 or flags.max_length < 3:
        raise ConfigError("--batch_size must be at least 1 and --max_length at least 3")
    checkpoint = load_checkpoint(flags.model, config_path=flags.model_config)
    inputs = load_inputs(flags, checkpoint)
    extractor = build_extractor(flags, checkpoint)
    parts: list[dict[str, np.ndarray]] = []
    count = len(inputs.input_ids)
    for start in trange(0, count, flags.batch_size, disable=None, desc="batches"):
        parts.append(extractor.extract(**inputs.rows(start, start + flags.batch_size)))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    kept = inputs.to_dict() if flags.text else {}
    write_arrays(flags.output, arrays | kept)
    print(f"{flags.output}: {count} sequences, {', '.join(arrays)}")


if __name__ == "__main__":
    cli.run(main)
