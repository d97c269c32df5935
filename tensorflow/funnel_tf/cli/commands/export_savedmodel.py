r"""Export a model with its head to a TensorFlow SavedModel, checked before it is kept.

    {program} --model=runs/mine/best --output=serving/mine/1
    {program} --model=B4-4-4H768-ELEC-TF --output=encoder/1 \
        --task=encoder --lengths=32,128

The signatures `length_T`, and `serving_default` for the longest T, take int64 `input_ids`,
`attention_mask` (1 = real token) and `token_type_ids` (0, 1, 2 = [CLS]), [batch, T] of any batch
size, and return `logits` [batch, labels] or hidden states, under the names of the ONNX files. The
model is a checkpoint of any supported kind, also of PyTorch; vocabulary, labels and config are
copied to `assets.extra`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings, split_list
from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError
from funnel_tf.cli.options import LogOptions
from funnel_tf.cli.start import import_installed, silence_tensorflow

_TASKS = ("classification", "regression", "model", "encoder")


@dataclass(frozen=True)
class SavedModelSettings:
    """Model, output and lengths."""

    model: str = setting(MISSING, "checkpoint of any supported kind")
    output: str = setting(MISSING, "directory to create; for TensorFlow Serving NAME/VERSION")
    task: str | None = setting(
        None, "head to export; default: that of the checkpoint", choices=_TASKS
    )
    lengths: str = setting("128", "comma list of tokens per sequence, a signature each")
    model_config: str | None = setting(None, "config file, if not in the directory of the weights")
    log: LogOptions = group("messages", LogOptions)

    def sequence_lengths(self) -> list[int]:
        """Return ``lengths`` as numbers.

        Raises:
            ConfigError: an item is no positive number.
        """
        items = split_list(self.lengths)
        if not items or not all(item.isdecimal() and int(item) > 0 for item in items):
            raise ConfigError(f"--lengths={self.lengths}: should be numbers of tokens, e.g. 32,128")
        return [int(item) for item in items]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(SavedModelSettings, __doc__, argv)
    lengths = settings.sequence_lengths()
    from funnel.checkpoints import load_checkpoint  # NumPy, which --help does not need

    checkpoint = load_checkpoint(settings.model, config_path=settings.model_config)
    silence_tensorflow(settings.log.verbose)
    export = import_installed("funnel_tf.models.saved_model").export_saved_model
    report = export(checkpoint, settings.output, lengths, settings.task)
    print(
        f"{settings.output}: {report.task}, signatures {', '.join(report.signatures)}; "
        f"loaded again, it differs by at most {report.difference:.1e}"
    )


command = entry_point(main)
