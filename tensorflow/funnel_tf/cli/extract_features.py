"""``extract_features.py``: hidden states of texts or token ids as a file."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from funnel.checkpoints import load_checkpoint
from funnel.features.feature_extraction import (
    TextSource,
    config_changes,
    extract_to_file,
    load_inputs,
    select_outputs,
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
    output = settings.output
    selection = select_outputs(extractor.config, extractor.parts, output, files.output)
    size = compute.batch_size
    extract_to_file(extractor.extract, inputs, extractor.config, selection, size, files.output)
    print(f"{files.output}: {len(inputs)} sequences, {', '.join(selection.names)}")


def session_config(device_id: int) -> tf.ConfigProto:
    """Return a session with GPU ``device_id``, if there is one; -1 is the CPU."""
    options = tf.GPUOptions(visible_device_list=str(max(0, device_id)), allow_growth=True)
    device_count = {"GPU": 0} if device_id < 0 else {}
    return tf.ConfigProto(gpu_options=options, device_count=device_count)
