"""Tiny RACE and SQuAD data with a vocabulary and a model's configuration."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from classifier_runs import flag_list, invoke, write_files

_WORDS = ("good", "bad", "film", "the", "plot", "very", "not", "one", "two", "cat")


def write_race(folder, questions=6):
    """RACE-shaped files whose right option is the article's first word; vocabulary and config."""
    write_files(folder, train=2, dev=2)
    draw = random.Random(0)
    for split in ("train", "dev", "test"):
        for level in ("middle", "high"):
            where = folder / "RACE" / split / level
            where.mkdir(parents=True)
            for number in range(2):
                write_article(draw, where / f"{number}.txt", questions)


def write_article(draw, path, count):
    """A RACE-shaped file of ``count`` questions whose right option is the first word."""
    words = draw.choices(_WORDS, k=draw.randint(4, 20))
    rows = [draw.sample([w for w in _WORDS if w != words[0]], 3) for _ in range(count)]
    answers = [draw.randrange(4) for _ in range(count)]
    for row, answer in zip(rows, answers, strict=True):
        row.insert(answer, words[0])
    article = {
        "id": path.name,
        "article": " ".join(words),
        "questions": ["the film _ ." if i % 2 else "a cat" for i in range(count)],
        "options": rows,
        "answers": ["ABCD"[answer] for answer in answers],
    }
    path.write_text(json.dumps(article))


def write_squad(folder, questions=12):
    """SQuAD 2.0-shaped files, every third question without answer; vocabulary and config."""
    write_files(folder, train=2, dev=2)
    draw = random.Random(0)
    for name in ("train.json", "dev.json"):
        paragraphs = [_paragraph(draw, f"{name}-{i}", i % 3 == 2) for i in range(questions)]
        content = {"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs}]}
        (folder / name).write_text(json.dumps(content))


def _paragraph(draw, name, is_impossible):
    words = draw.choices(_WORDS, k=draw.randint(6, 40))
    context, place = " ".join(words), draw.randrange(len(words))
    start = len(" ".join([*words[:place], ""]))
    answers = [] if is_impossible else [{"text": words[place], "answer_start": start}]
    question = {"id": name, "question": f"{words[place]} not a", "answers": answers}
    return {"context": context, "qas": [question | {"is_impossible": is_impossible}]}


@dataclass(frozen=True)
class AnsweringTask:
    """A program with files that take it a second."""

    name: str
    write: Callable[..., None]
    flags: Mapping[str, Any]
    paths: Mapping[str, str]

    def arguments(self, folder, **changes):
        """Flags of a run on the files that `write` put into `folder`."""
        flags = {"device_id": -1, "train_bsz": 8, "lr": 1e-3, "seed": 1, "do_train": True}
        # Measured, it could differ between two runs that are compared.
        flags |= {"short_attention": "parts", "gelu": "parts"}
        flags |= {name: folder / path for name, path in (_PATHS | self.paths).items()}
        return flag_list(flags | self.flags | changes)

    def finished(self, folder, program):
        """`folder` with the files and a finished run."""
        self.write(folder)
        assert invoke(program, self.arguments(folder)) == 0
        return folder


_PATHS = {
    "model_dir": "run",
    "tokenizer_path": "vocab.txt",
    "init_ckpt_config": "net_config.json",
}
RACE = AnsweringTask(
    "race",
    write_race,
    {"do_eval": True, "epochs": 2, "max_seq_length": 32, "max_qa_length": 8},
    {"data_dir": "RACE"},
)
# The longer paragraphs take several windows.
SQUAD = AnsweringTask(
    "squad",
    write_squad,
    {
        "do_predict": True,
        "epochs": 3,
        "max_seq_length": 28,
        "max_query_length": 4,
        "doc_stride": 8,
    },
    {"train_file": "train.json", "predict_file": "dev.json"},
)


def run_files(run):
    """The names in a run's directory, without TensorBoard's."""
    return {item.name for item in run.iterdir() if not item.name.startswith("events.")}


# What a run of any program leaves.
RUN_FILES = {
    *("run_config.json", "net_config.json", "metrics.jsonl", "best_result.json"),
    *("best", "last", "final_scores.json"),
}
