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
    return parse_json(read_text(path, error), path, error)


def parse_json(
    text: str | bytes, source: str | os.PathLike[str], error: type[FunnelError] = ConfigError
) -> Any:
    """Return the value of JSON text from ``source``, which messages name; see :func:`read_json`."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as caught:
        raise error(f"{source}: not UTF-8 at byte {caught.start + 1}") from None
    except json.JSONDecodeError as caught:
        raise error(f"{source}:{caught.lineno}: not valid JSON: {caught.msg}") from None
    except RecursionError:
        raise error(f"{source}: not valid JSON: nested too deeply") from None
    except ValueError:  # Python's limit, of 4,300 digits
        raise error(f"{source}: not valid JSON: a number of too many digits") from None


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
