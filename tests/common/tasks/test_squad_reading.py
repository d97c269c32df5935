"""SQuAD files: content in both versions, and errors of broken ones."""

import json
import logging

import pytest

from funnel.tasks.squad import Answer, read_squad
from funnel.utils.errors import ConfigError, DataError
from squad_cases import qa, squad_file, squad_json

CONTEXT = "Funnels are narrow at one end."
ANSWERABLE = qa("a", "Where?", ("at one end", 19), ("one end", 22), is_impossible=False)
UNANSWERABLE = qa("b", "Why?", is_impossible=True)


def test_questions_keep_order_ids_and_places(tmp_path):
    content = squad_json((CONTEXT, ANSWERABLE), ("Other.", UNANSWERABLE))
    data = read_squad(squad_file(tmp_path, content))
    assert tuple(data.paragraphs) == (CONTEXT, "Other.")
    first, second = data.questions
    assert (first.id, first.text, first.paragraph) == ("a", "Where?", 0)
    assert first.answers == (Answer("at one end", 19), Answer("one end", 22))
    assert (second.paragraph, second.answers) == (1, ())
    assert second.where == "data[0].paragraphs[1].qas[0]"


def test_v1_leaves_unanswerable_questions_out(tmp_path, caplog):
    path = squad_file(tmp_path, squad_json((CONTEXT, ANSWERABLE, UNANSWERABLE)))
    with caplog.at_level(logging.INFO):
        assert [question.id for question in read_squad(path, "v1").questions] == ["a"]
    assert "leaves out 1 unanswerable" in caplog.text
    with pytest.raises(DataError, match="no answerable question"):
        read_squad(squad_file(tmp_path, squad_json((CONTEXT, UNANSWERABLE))), "v1")
    with pytest.raises(ConfigError, match="'v3' is unknown; it is v1 or v2"):
        read_squad(path, "v3")


def test_a_file_of_version_1_and_one_without_answers(tmp_path):
    old = squad_json((CONTEXT, qa("a", "Where?", ("end", 26))))
    for version in ("v1", "v2"):
        assert read_squad(squad_file(tmp_path, old), version).questions[0].answers
    unlabelled = {"id": "a", "question": "Where?"}
    data = read_squad(squad_file(tmp_path, squad_json((CONTEXT, unlabelled))))
    assert data.questions[0].answers is None


def test_byte_order_mark_and_lone_surrogate(tmp_path):
    content = squad_json(("\ud800 x", qa("a", "?", ("x", 2))))
    path = squad_file(tmp_path, "\ufeff" + json.dumps(content))
    assert read_squad(path).questions[0].answers == (Answer("x", 2),)


BROKEN = [
    ("{", "not valid JSON"),
    ("[]", "the file is [], an object is expected"),
    ({}, "data is missing, a list is expected"),
    ({"data": []}, "holds no question"),
    ({"data": {"a": 1}}, 'data is {"a": 1}, a list is expected'),
    ({"data": [{"title": "t"}]}, "data[0].paragraphs is missing"),
    ({"data": [{"paragraphs": [3]}]}, "data[0].paragraphs[0] is 3, an object is expected"),
    ({"data": [{"paragraphs": [{"qas": []}]}]}, "data[0].paragraphs[0].context is missing"),
    (squad_json((CONTEXT, {"question": "?"})), "data[0].paragraphs[0].qas[0].id is missing"),
    (squad_json((CONTEXT, {"id": 7, "question": "?"})), "qas[0].id is 7, a string is expected"),
    (squad_json((CONTEXT, {"id": "a"})), "qas[0].question is missing, a string"),
    (
        squad_json((CONTEXT, {"id": "a", "question": "?", "answers": [{"text": "end"}]})),
        "data[0].paragraphs[0].qas[0].answers[0].answer_start is missing, an integer",
    ),
    (
        squad_json((CONTEXT, qa("a", "?", ("end", True)))),
        "answers[0].answer_start is true, an integer is expected",
    ),
    (squad_json((CONTEXT, qa("a", "?", ("  ", 1)))), "answers[0] has an empty text"),
    (
        squad_json((CONTEXT, qa("a", "?", ("end", 26), is_impossible=True))),
        "qas[0] has is_impossible=true but has 1 answers",
    ),
    (squad_json((CONTEXT, qa("a", "?", is_impossible=False))), "is_impossible=false but has 0"),
    (
        squad_json((CONTEXT, qa("a", "?"), qa("b", "?"), qa("a", "?"))),
        "data[0].paragraphs[0].qas[0].id 'a' occurs 2 times",
    ),
    (
        squad_json((CONTEXT, qa("a", "?", ("end", 25)))),
        "1 of 1 answers are not at their answer_start",
    ),
]


@pytest.mark.parametrize("content, message", BROKEN, ids=[case[1][:40] for case in BROKEN])
def test_broken_files_are_named_with_the_place(content, message, tmp_path):
    path = squad_file(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_squad(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="nothing.json: cannot be read"):
        read_squad(tmp_path / "nothing.json")
    (tmp_path / "binary.json").write_bytes(b"\x80\x81")
    with pytest.raises(DataError, match="not UTF-8 at byte 1"):
        read_squad(tmp_path / "binary.json")


@pytest.mark.parametrize("start", [-4, 99, 0])
def test_a_few_misplaced_answers_are_logged_and_kept(start, tmp_path, caplog):
    good = [qa(f"q{i}", "?", ("end", 26)) for i in range(100)]
    path = squad_file(tmp_path, squad_json((CONTEXT, *good, qa("bad", "?", ("end", start)))))
    data = read_squad(path)
    assert data.questions[-1].answers == (Answer("end", None),)
    assert "data[0].paragraphs[0].qas[100].answers[0] is not at" in caplog.text
    assert "1 of 101 answers are misplaced" in caplog.text


def test_members_may_be_in_any_order_and_others_are_skipped(tmp_path):
    content = squad_json((CONTEXT, ANSWERABLE), ("Other.", UNANSWERABLE))
    article = content["data"][0]
    odd = {"qas": article["paragraphs"][0]["qas"], "context": CONTEXT, "more": [{"data": [1]}]}
    articles = [{"paragraphs": [odd], "title": ["x"]}, {"paragraphs": []}, {"x": 1} | article]
    for index, question in enumerate(articles[2]["paragraphs"]):
        question["qas"] = [question["qas"][0] | {"id": f"again {index}"}]
    text = json.dumps({"paragraphs": {"data": []}, "data": articles, "version": 2}, indent=1)
    data = read_squad(squad_file(tmp_path, text))
    assert tuple(data.paragraphs) == (CONTEXT, CONTEXT, "Other.")
    assert [(q.id, q.paragraph) for q in data.questions] == [
        *(("a", 0), ("again 0", 1), ("again 1", 2)),
    ]
    assert [q.id for q in data.questions[1:]] == ["again 0", "again 1"]
    assert data.questions[-1].where == "data[2].paragraphs[1].qas[0]"
    with pytest.raises(IndexError):
        data.questions[3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [], "data": []}', "data is there twice"),
        ('{"data": [] }\n x', ":2: not valid JSON: more text after the object"),
        ('{"data": [],\n}', ":2: not valid JSON: '}' instead of"),
        ('{"data": [{"paragraphs": [\n{"context": "a",\n "qas": [}\n', ":3: not valid JSON"),
        ('{"a" 1, "data": []}', ":1: not valid JSON: '1' instead of ':'"),
        ('{"a": ' + "[" * 100_000, "not valid JSON: nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON: a number of too many digits"),
    ],
)
def test_broken_json_is_named_with_the_line(text, message, tmp_path):
    path = squad_file(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_squad(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_bytes_that_are_not_utf8_are_named_wherever_they_are(tmp_path):
    good = [(f"ä {number}", qa(f"q{number}", "?")) for number in range(3000)]
    raw = json.dumps(squad_json(*good), indent=1, ensure_ascii=False).encode()
    place = raw.index(b"q2800") + 1
    path = tmp_path / "squad.json"
    path.write_bytes(raw[:place] + b"\xff" + raw[place:])
    line, column = raw[:place].count(b"\n") + 1, place - raw.rfind(b"\n", 0, place)
    with pytest.raises(DataError, match=f"not UTF-8 at byte {column} of line {line}; save it as"):
        read_squad(path)
    path.write_bytes(b"\xef\xbb\xbf" + raw)
    assert len(read_squad(path).questions) == 3000
    path.write_bytes(raw.decode().encode("utf-16"))
    with pytest.raises(DataError, match="squad.json:1: is UTF-16"):
        read_squad(path)
