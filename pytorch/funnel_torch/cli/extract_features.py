"""Hidden states of texts or token ids as a file: what ``extract_features.py`` runs."""

from __future__ import annotations

from funnel.checkpoints import load_checkpoint
from funnel.features.feature_extraction import (
    TextSource,
    config_changes,
    detect_parts,
    extract_to_file,
    load_inputs,
    select_outputs,
)
from funnel_torch.cli.settings.extract_features import TorchExtractionSettings
from funnel_torch.kernels.choices import choices
from funnel_torch.kernels.quantization import quantize_int8
from funnel_torch.models.feature_extractor import FeatureExtractor
from funnel_torch.training.devices import choose_device


def run(settings: TorchExtractionSettings) -> None:
    """Compute the features of all sequences and write them."""
    files, switches, compute = settings.files, settings.switches, settings.compute
    device = choose_device(compute.device_id, settings.quantization.device)
    choices.configure(settings.kernels)
    checkpoint = load_checkpoint(files.model, config_path=switches.model_config)
    changes = config_changes(checkpoint, switches.attn_type, switches.truncate_seq)
    output, parts = settings.output, detect_parts(checkpoint)
    selection = select_outputs(checkpoint.config, parts, output, files.output)
    request = settings.tokenizer.request(settings.given)
    text = TextSource(files.text or "", request, settings.length.max_length)
    inputs = load_inputs(checkpoint, files.ids, text)

    extractor = FeatureExtractor.from_checkpoint(checkpoint, **changes)
    int8 = settings.quantization.int8
    # 8 bits are computed on the CPU, whatever device_id is.
    extractor.to("cpu" if int8 else device)
    if int8:
        quantize_int8(extractor)
    extract_to_file(
        extractor.extract, inputs, extractor.config, selection, compute.batch_size, files.output
    )
    print(f"{files.output}: {len(inputs)} sequences, {', '.join(selection.names)}")
