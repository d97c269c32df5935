"""Write what a model computes for given texts or token ids; the twin of the PyTorch program.

    python tensorflow/extract_features.py --model CKPT --text lines.txt --output features.npz
    python tensorflow/extract_features.py --model CKPT --ids batch.npz --output features.npz

Flags, input and output are those of `pytorch/extract_features.py`: float32 arrays `embedding`,
`hidden_0` ... (one per executed encoder layer), `decoder` if the model has one, `summary` and
`discriminator_logits` (positive = original token) if the checkpoint has those weights. CKPT is a
checkpoint of any kind, not of TensorFlow's alone. `--verbose` shows TensorFlow's own messages.
"""

from __future__ import annotations

import argparse

import _paths  # noqa: F401

import tensorflow.compat.v1 as tf

from funnel.checkpoints import load_checkpoint
from funnel.cli.feature_extraction import define_flags
from funnel.features import feature_extraction as extraction
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_tf.cli.start import silence_tensorflow
from funnel_tf.models.feature_extractor import FeatureExtractor


def parse_flags() -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=formatter, allow_abbrev=False
    )
    define_flags(parser)
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's own messages")
    flags = parser.parse_args()
    if min(flags.batch_size, flags.max_length - 2) < 1:
        raise ConfigError("--batch_size must be at least 1 and --max_length at least 3")
    return flags


def text_source(flags: argparse.Namespace) -> extraction.TextSource:
    """The text file and how it becomes tokens."""
    kind = {"tokenizer_type": flags.tokenizer_type, "vocabulary": flags.tokenizer_path}
    return extraction.TextSource(
        flags.text, **kind, uncased=not flags.cased, max_length=flags.max_length
    )


def session_config(device_id: int) -> tf.ConfigProto:
    """One GPU, if there is one and it is not -1."""
    options = tf.GPUOptions(visible_device_list=str(max(0, device_id)), allow_growth=True)
    device_count = {"GPU": 0} if device_id < 0 else {}
    return tf.ConfigProto(gpu_options=options, device_count=device_count)


def main() -> None:
    """Compute and write."""
    flags = parse_flags()
    silence_tensorflow(flags.verbose)
    checkpoint = load_checkpoint(flags.model, config_path=flags.model_config)
    inputs = extraction.load_inputs(checkpoint, flags.ids, text_source(flags))
    changes = extraction.config_changes(checkpoint, flags.attn_type, flags.truncate_seq)
    extractor = FeatureExtractor(checkpoint, session_config(flags.device_id), **changes)
    arrays = extraction.extract_batches(extractor.extract, inputs, flags.batch_size)
    extraction.write_arrays(flags.output, arrays | (inputs.to_dict() if flags.text else {}))
    print(f"{flags.output}: {len(inputs.input_ids)} sequences, {', '.join(arrays)}")


if __name__ == "__main__":
    run_main(main)
