"""JSON files read with one-line errors that name the file and the line."""

from __future__ import annotations

import json
import os
from typing import Any

from funnel.utils.errors import ConfigError, FunnelError
from funnel.utils.text_files import read_text


def read_json(path: str | os.PathLike[str], error: type[FunnelError] = ConfigError) -> Any:
    """Return the value in a JSON file, compressed or not; a byte order mark is skipped.

    Raises:
        FunnelError: the file cannot be read, is not UTF-8 or not JSON. The class raised is
            ``error``.
    """
    text = read_text(path, error)
    try:
        return json.loads(text)
    except json.JSONDecodeError as caught:
        raise error(f"{path}:{caught.lineno}: not valid JSON: {caught.msg}") from None
    except ValueError:  # Python refuses to convert integers of more than 4300 digits
        raise error(f"{path}: not valid JSON: a number has too many digits") from None
    except RecursionError:
        raise error(f"{path}: not valid JSON: nested too deeply") from None


def read_json_object(
    path: str | os.PathLike[str], error: type[FunnelError] = ConfigError
) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FunnelError: as :func:`read_json`, or the value is no object.
    """
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(f"{path}: should hold a JSON object, not {type(value).__name__}")
    return value
