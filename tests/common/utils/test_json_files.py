"""JSON files: values, and one-line errors that name the file."""

import pytest

from funnel.utils.errors import ConfigError, DataError
from funnel.utils.json_files import read_json, read_json_object


def test_values_with_or_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('["ü"]', encoding="utf-8")
    assert read_json(path) == ["ü"]
    path.write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json_object(path) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n]', r"a\.json:2: not valid JSON: "),
        (b"[" * 100_000, r"a\.json: not valid JSON: nested too deeply"),
        (b"\xff", r"a\.json: not UTF-8 at byte 1"),
        (b"[]", r"a\.json: should hold a JSON object, not list"),
        (None, r"a\.json: cannot be read: No such file"),
    ],
)
@pytest.mark.parametrize("error", [ConfigError, DataError])
def test_errors_are_of_the_class_asked_for(tmp_path, content, message, error):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_json_object(tmp_path / "a.json", error)
    assert "\n" not in str(caught.value)
