r"""Write hidden states, summary and logits of a model for texts or token ids.

    {program} --model CKPT --text lines.txt --output features.npz
    {program} --model CKPT --ids batch.npz --output features.npz
    {program} --model CKPT --text lines.txt --output vectors.npz \
        --layers=-1 --pooling=mean    # one vector per line, of the last encoder layer

Flags, input and output are those of `pytorch/extract_features.py`: float32 arrays `embedding`,
`hidden_0` ... (one per executed encoder layer), `decoder` if the model has one, `summary` and
`discriminator_logits` (positive = original token) if the checkpoint has those weights; with one
layer, --pooling and an output that ends in .npy, one array [sequences, D]. CKPT is a checkpoint of
any supported kind, also of PyTorch. `--verbose` shows TensorFlow's own messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_tf.cli.programs import ExtractSettings
from funnel_tf.cli.start import import_installed, silence_tensorflow


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(ExtractSettings, __doc__, argv)
    silence_tensorflow(settings.log.verbose)
    import_installed("funnel_tf.cli.extract_features").run(settings)


command = entry_point(main)
