r"""Predict a file of inputs with a finished model of any head.

    {program} --model=runs/mine --input=texts.txt --output=predictions.csv
    {program} --model=runs/mine --input=news.csv.gz --output=out.jsonl \
        --text_column=title --text_b_column=body --id_column=key --write_logits
    cat texts.txt | {program} --model=runs/mine --input=- --output=- | head

--model is a directory that classifier.py, squad.py, race.py, tagger.py or transformers wrote; head,
labels, tokenizer and length come from its files. The input is text (an input per line, a tab
between two texts), csv, tsv, jsonl, a JSON array or parquet, compressed or not. Columns:

    classification, regression     text, and --text_b_column for pairs
    question answering             question, context
    multiple choice                question, context, options (a list)
    token classification           text (split at blanks, or a list of words)

The output has a row per input in the order of the input: id, label, probability and, with
--write_logits, logits. It is written under a temporary name and renamed at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_torch.cli.settings.predict import TorchPredictSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(TorchPredictSettings, __doc__, argv)
    from funnel_torch.cli.predict import run  # imports PyTorch, which --help does not need

    run(settings)


command = entry_point(main)
