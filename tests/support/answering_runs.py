"""Tiny RACE and SQuAD data with a vocabulary and a model's configuration."""

import json
import random

from classifier_runs import write_files

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
                _write_article(draw, where / f"{number}.txt", questions)


def _write_article(draw, path, count):
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


def common_flags(folder):
    """What every tiny run needs."""
    return {
        "device_id": -1,
        "tokenizer_path": folder / "vocab.txt",
        "init_ckpt_config": folder / "net_config.json",
        "train_bsz": 8,
        "lr": 1e-3,
        "seed": 1,
    }
