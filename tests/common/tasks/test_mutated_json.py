"""SQuAD, RACE and JSON-lines files corrupt in their structure: one line, or the same meaning."""

import copy
import json
import random

import pytest

from funnel.tasks import get_task
from funnel.tasks.race import read_race
from funnel.tasks.squad import read_squad
from funnel.utils.errors import ConfigError, DataError

ODD = [
    None, True, -1, 0, 10**30, 1.5, float("nan"), "", "x", "\ud800", "a\0b", [], {}, [[]],
    [None], {"": 1}, ["x"] * 5, json.loads("[" * 200 + "]" * 200), "9" * 5000,
]  # fmt: skip
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "the cat sat",
                    "qas": [
                        {
                            "id": "1",
                            "question": "who",
                            "answers": [{"text": "cat", "answer_start": 4}],
                        },
                        {"id": "2", "question": "why", "answers": [], "is_impossible": True},
                    ],
                }
            ]
        }
    ]
}
RACE = {
    "article": "a",
    "questions": ["q", "r _"],
    "options": [list("wxyz")] * 2,
    "answers": list("BD"),
}
ROW = {"text": "one", "label": "a"}


def places(value, path=()):
    """Yield the path of every value in a JSON value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def mutate(rng, good):
    value = copy.deepcopy(good)
    *parents, last = rng.choice(list(places(good)))
    target = value
    for key in parents:
        target = target[key]
    kind = rng.randrange(4)
    if kind == 0:
        del target[last]
    elif kind == 1 and isinstance(target, list):
        target.append(target[last])
    elif kind == 2 and isinstance(target, dict):
        target["more"] = target.pop(last)
    else:
        target[last] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(value)
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(['"', "}", "\0", "é", "[" * 2000, "9" * 5000, ""])
    return text


def read_squad_file(path, text):
    path.write_text(text, encoding="utf-8")
    data = read_squad(path)
    assert data.questions
    for question in data.questions:
        assert isinstance(question.text, str) and question.paragraph < len(data.paragraphs)
        for answer in question.answers or ():
            if answer.start is not None:
                assert data.paragraphs[question.paragraph].startswith(answer.text, answer.start)


def read_race_file(path, text):
    for level in ("middle", "high"):
        path = path.parent / "train" / level / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path = path.parents[2] / path.name
    data = read_race(path.parent, "train")
    for question in data.questions:
        assert len(question.options) == 4 and 0 <= question.label < 4
        assert question.article < len(data.articles)


def read_rows(path, text):
    path = path.with_name("train.jsonl")
    path.write_text("\n".join([json.dumps(ROW | {"label": "b"}), text]), encoding="utf-8")
    task = get_task("jsonl").resolve_labels(path.parent)
    for example in task.load(path.parent, "train"):
        assert isinstance(example.text_a, str) and 0 <= example.label < task.num_labels


@pytest.mark.parametrize(
    ("good", "read"), [(SQUAD, read_squad_file), (RACE, read_race_file), (ROW, read_rows)]
)
def test_mutated_files(tmp_path, good, read):
    rng, refusals = random.Random(11), 0
    read(tmp_path / "0.txt", json.dumps(good))
    for _ in range(400):
        text = mutate(rng, good)
        try:
            read(tmp_path / "0.txt", text)
        except ConfigError as error:  # the only label left
            assert "two are needed" in str(error)
        except DataError as error:
            refusals += 1
            assert str(tmp_path) in str(error) and "\n" not in str(error) and len(str(error)) < 800
    assert 100 < refusals < 400
