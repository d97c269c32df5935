"""``extract_features.py``: hidden states of texts or token ids as a file."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from funnel.checkpoints import load_checkpoint
from funnel.features.feature_extraction import (
    TextSource,
    config_changes,
    extract_batches,
    load_inputs,
    write_arrays,
)
from funnel_tf.cli.programs import ExtractSettings
from funnel_tf.models.feature_extractor import FeatureExtractor


def run(settings: ExtractSettings) -> None:
    """Compute the features of all sequences and write them."""
    files, switches, compute = settings.files, settings.switches, settings.compute
    checkpoint = load_checkpoint(files.model, config_path=switches.model_config)
    request = settings.tokenizer.request(settings.given)
    text = TextSource(files.text or "", request, settings.length.max_length)
    inputs = load_inputs(checkpoint, files.ids, text)
    changes = config_changes(checkpoint, switches.attn_type, switches.truncate_seq)
    extractor = FeatureExtractor(checkpoint, session_config(compute.device_id), **changes)
    arrays = extract_batches(extractor.extract, inputs, compute.batch_size)
    write_arrays(files.output, arrays | (inputs.to_dict() if files.text else {}))
    print(f"{files.output}: {len(inputs.input_ids)} sequences, {', '.join(arrays)}")


def session_config(device_id: int) -> tf.ConfigProto:
    """Return a session with GPU ``device_id``, if there is one; -1 is the CPU."""
    options = tf.GPUOptions(visible_device_list=str(max(0, device_id)), allow_growth=True)
    device_count = {"GPU": 0} if device_id < 0 else {}
    return tf.ConfigProto(gpu_options=options, device_count=device_count)
