"""Texts with several labels, as files of the user's own, for tests of both classifiers."""

import json
import random

from classifier_runs import write_files

WORDS = ("good", "bad", "film", "plot", "cat")


def write_texts(folder, count=32):
    """Write `own/*.jsonl` (a text has a label for each of three words), vocabulary and sizes."""
    write_files(folder, dropout=0.0, dropatt=0.0)
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randint(1, 4))
        rows.append({"text": " ".join(words), "label": sorted({*words} & {"good", "bad", "cat"})})
    for split, some in (("train", rows), ("dev", rows), ("test", rows[:5])):
        path = folder / "own" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return rows
