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

import torch

from funnel.checkpoints import load_checkpoint
from funnel.cli.feature_extraction import define_flags
from funnel.features.feature_extraction import (
    TextSource,
    config_changes,
    extract_batches,
    load_inputs,
    write_arrays,
)
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch.kernels.quantization import quantize_int8
from funnel_torch.models.feature_extractor import FeatureExtractor


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    define_flags(parser)
    parser.add_argument("--int8", action="store_true", help="8-bit products; on the CPU")
    flags = parser.parse_args()
    if flags.batch_size < 1 or flags.max_length < 3:
        raise ConfigError("--batch_size must be at least 1 and --max_length at least 3")
    return flags


def main() -> None:
    flags = parse_flags()
    checkpoint = load_checkpoint(flags.model, config_path=flags.model_config)
    changes = config_changes(checkpoint, flags.attn_type, flags.truncate_seq)
    tokens = (flags.tokenizer_type, flags.tokenizer_path, not flags.cased, flags.max_length)
    inputs = load_inputs(checkpoint, flags.ids, TextSource(flags.text, *tokens))

    extractor = FeatureExtractor.from_checkpoint(checkpoint, **changes)
    use_gpu = flags.device_id >= 0 and torch.cuda.is_available() and not flags.int8
    extractor.to(f"cuda:{flags.device_id}" if use_gpu else "cpu")
    if flags.int8:
        quantize_int8(extractor)
    arrays = extract_batches(extractor.extract, inputs, flags.batch_size)

    kept = inputs.to_dict() if flags.text else {}
    write_arrays(flags.output, arrays | kept)
    print(f"{flags.output}: {len(inputs.input_ids)} sequences, {', '.join(arrays)}")


if __name__ == "__main__":
    run_main(main)
