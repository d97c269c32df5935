r"""Predict a file of inputs with a finished model.

    {program} --model=exp/mine --input=texts.txt --output=predictions.csv
    {program} --model=exp/mine --input=news.jsonl --output=out.jsonl \
        --text_column=title --text_b_column=body --id_column=key --write_logits

Flags, input and output are those of `pytorch/predict.py` without --int8 and --onnx. --model is a
directory that a program of either backend wrote, or a checkpoint prefix; classification,
regression, question answering and multiple choice are predicted. `--verbose` shows TensorFlow's
own messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_tf.cli.programs import FilePredictionSettings
from funnel_tf.cli.start import import_installed, silence_tensorflow


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(FilePredictionSettings, __doc__, argv)
    silence_tensorflow(settings.log.verbose)
    import_installed("funnel_tf.cli.predict").run(settings)


command = entry_point(main)
