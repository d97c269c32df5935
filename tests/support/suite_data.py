"""Tiny made-up data in the layout of the data directory, for every task of reproduce.py."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

from answering_runs import write_article
from task_files import write

_WORDS = ("good", "bad", "film", "the", "plot", "very", "not", "one", "two", "cat")
_MNLI_HEADER = ["index", *"1234567", "sentence1", "sentence2", "label1", "gold_label"]


def write_suite_data(folder: Path, rows: int = 12) -> Path:
    """Write the files of all tasks and corpora; every article, question and text is made up."""
    draw = random.Random(0)
    lines = [_sentence(draw) if i % 8 else "" for i in range(1, 400)]
    write(folder / "corpus" / "wiki_articles.txt", "\n".join(lines))
    write(folder / "wikitext2" / "valid.txt", "\n".join(lines))
    for split in ("train", "dev"):
        _write_glue(folder / "glue", split, rows, draw)
        for level in ("middle", "high"):
            path = write(folder / "race" / split / level / "0.txt", "")
            write_article(draw, path, rows)
    for name in ("train", "test"):
        table = [[str(1 + i % 4), "", _sentence(draw)] for i in range(rows)]
        write(folder / "text_cls" / "ag_news" / f"{name}.csv", _quoted(table))
    write(folder / "squad" / "train-answerable.json", _squad(draw, rows, 0))
    write(folder / "squad" / "dev-v2.0.json", _squad(draw, rows, 3))
    return folder


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(_WORDS, k=draw.randint(4, 9))) + "."


def _quoted(table: list[list[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(table)
    return stream.getvalue()


def _write_glue(folder: Path, split: str, rows: int, draw: random.Random) -> None:
    def pairs() -> list[tuple[int, str, str]]:
        return [(i, _sentence(draw), _sentence(draw)) for i in range(rows)]

    cola = [["x", str(i % 2), "", text] for i, text, _ in pairs()]
    rte = [["index", "sentence1", "sentence2", "label"]]
    rte += [[str(i), a, b, ("entailment", "not_entailment")[i % 3 == 0]] for i, a, b in pairs()]
    names = ("contradiction", "entailment", "neutral")
    mnli = [_MNLI_HEADER]
    mnli += [[str(i), *"_______", a, b, names[i % 3], names[i % 3]] for i, a, b in pairs()]
    sts_b = [["index", *"123456", "sentence1", "sentence2", "score"]]
    sts_b += [[str(i), *"______", a, b, f"{i % 5}.5"] for i, a, b in pairs()]
    for name, table in (
        (f"CoLA/{split}.tsv", cola),
        (f"RTE/{split}.tsv", rte),
        (f"STS-B/{split}.tsv", sts_b),
        (f"MNLI/{'train' if split == 'train' else 'dev_matched'}.tsv", mnli),
    ):
        write(folder / name, "".join("\t".join(row) + "\n" for row in table))


def _squad(draw: random.Random, rows: int, unanswerable: int) -> str:
    """Return a SQuAD file of two questions a paragraph, and some without an answer."""
    paragraphs = []
    for number in range(rows):
        words = _sentence(draw).split()
        place = draw.randrange(len(words))
        start = len(" ".join([*words[:place], ""]))
        answer = {"text": words[place], "answer_start": start}
        qas = [
            {"id": f"{number}-{i}", "question": "the film ?", "answers": [answer]} for i in range(2)
        ]
        if number < unanswerable:
            qas.append({"id": f"{number}-n", "question": "a cat ?", "answers": []})
        paragraphs.append({"context": " ".join(words), "qas": qas})
    content = {"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs}]}
    return json.dumps(content)
