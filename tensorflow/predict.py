r"""Predict a file of inputs with a finished model.

    python tensorflow/predict.py --model=exp/mine --input=texts.txt --output=predictions.csv
    python tensorflow/predict.py --model=exp/mine --input=news.jsonl --output=out.jsonl \
        --text_column=title --text_b_column=body --id_column=key --write_logits

Flags, input and output are those of `pytorch/predict.py` without --int8 and --onnx. --model is a
directory that a program of either backend wrote, or a checkpoint prefix; classification,
regression, question answering and multiple choice are predicted. `--verbose` shows TensorFlow's
own messages.
"""

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_tf.cli.programs import FilePredictionSettings
from funnel_tf.cli.start import import_installed, silence_tensorflow


def main() -> None:
    """Run the program with the command line of this process."""
    settings = parse_settings(FilePredictionSettings, __doc__)
    silence_tensorflow(settings.log.verbose)
    import_installed("funnel_tf.cli.predict").run(settings)


if __name__ == "__main__":
    run_main(main)
