r"""Predict a file of inputs with a finished model of any head.

    python pytorch/predict.py --model=runs/mine --input=texts.txt --output=predictions.csv
    python pytorch/predict.py --model=runs/mine --input=news.csv.gz --output=out.jsonl \
        --text_column=title --text_b_column=body --id_column=key --write_logits
    cat texts.txt | python pytorch/predict.py --model=runs/mine --input=- --output=- | head

--model is a directory that classifier.py, squad.py, race.py or transformers wrote; head, labels,
tokenizer and length come from its files. The input is text (an input per line, a tab between two
texts), csv, tsv, jsonl, a JSON array or parquet, compressed or not. Columns:

    classification, regression     text, and --text_b_column for pairs
    question answering             question, context
    multiple choice                question, context, options (a list)
    token classification           text (split at blanks, or a list of words)

The output has a row per input in the order of the input: id, label, probability and, with
--write_logits, logits. It is written under a temporary name and renamed at the end.
"""

from __future__ import annotations

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_torch.cli.predict_settings import TorchPredictSettings


def main() -> None:
    settings = parse_settings(TorchPredictSettings, __doc__)
    from funnel_torch.cli.predict import run  # imports PyTorch, unlike --help

    run(settings)


if __name__ == "__main__":
    run_main(main)
