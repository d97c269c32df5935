"""Files of fine-tuning records and their descriptions: does a file that is there fit?"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.features.record_schema import RecordSchema
from funnel.formats.indexed_tfrecord import check_count, count_records
from funnel.formats.tfrecord import read_examples
from funnel.utils.errors import DataError
from funnel.utils.json_files import read_json_object
from funnel.utils.split_report import NO_REPORT, SplitReport

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2  # increment when the same data give other records: old files are then rebuilt


@dataclass(frozen=True)
class ExampleFile:
    """A complete file of records.

    Attributes:
        path: the TFRecord file.
        schema: features of its records.
        num_real_examples: examples that come from data; they precede the padding examples.
        num_examples: these and the padding examples that fill up the last batch.
        report: what became of the data.
    """

    path: Path
    schema: RecordSchema
    num_real_examples: int
    num_examples: int
    report: SplitReport = NO_REPORT

    @property
    def meta_path(self) -> Path:
        """Path of the JSON description."""
        return meta_path(self.path)


def meta_path(path: Path) -> Path:
    """Return the path of the description of a TFRecord file."""
    return path.with_name(f"{path.name}.meta.json")


def read_meta(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the description of the records at ``path`` if it matches ``key``, else ``None``.

    The reason for ``None`` is logged.
    """
    if not (path.exists() and meta_path(path).exists()):
        return None
    try:
        found = read_json_object(meta_path(path), DataError)
        size = path.stat().st_size
        num_bytes, real, total = (
            found.get(name, 0) for name in ("num_bytes", "num_real_examples", "num_examples")
        )
        if {type(num_bytes), type(real), type(total)} != {int} or not 0 < real <= total:
            raise DataError("the numbers of examples and bytes are missing or wrong")
        if found.get("version") == FORMAT_VERSION:
            SplitReport.from_json(found.get("report"))
    except (OSError, ValueError, DataError) as error:
        logger.warning("%s: corrupt description; the records are rebuilt (%s)", path, error)
        return None
    if changed := [name for name in key if found.get(name) != key[name]]:
        logger.info("%s: rebuilt because of a different %s", path, ", ".join(changed))
        return None
    if size != num_bytes:
        logger.warning("%s: rebuilt, it has %d bytes instead of %d", path, size, num_bytes)
        return None
    try:
        check_count(path, total)
    except DataError as error:
        logger.warning("%s; the records are rebuilt", error)
        return None
    return found


def load_recorded(path: Path, schema: RecordSchema, key: Mapping[str, Any]) -> ExampleFile | None:
    """Return the file at ``path`` where the data it was made from is missing, None without it.

    A file without our description was written by another program, such as the original's: its
    description, if there is one, has the numbers of examples only.

    Args:
        path: the TFRecord file.
        schema: features of the records; the first record is checked.
        key: what must be equal in the description, as JSON values.

    Raises:
        DataError: the records do not fit, or the file is incomplete.
    """
    if not path.is_file():
        return None
    found = read_description(path)
    total = count_records(path)
    real = int(found.get("num_real_examples", total))
    if "task" in found:
        key = json.loads(json.dumps(key))
        changed = [name for name in key if found.get(name) != key[name]]
        if changed or found.get("num_bytes") != path.stat().st_size:
            reason = f"a different {', '.join(changed)}" if changed else "another size"
            raise DataError(
                f"{path}: does not fit, because of {reason}, and the data to write it again from "
                "is missing"
            )
    else:
        logger.warning(
            "%s: written by another program, so its task, case and vocabulary are not checked", path
        )
    if not 0 < real <= total:
        raise DataError(f"{path}: holds {total} records, of which {real} should be examples")
    for record, values in read_examples(path, tuple(schema.fields)):
        schema.check(values, f"{path}, record {record.index}")
        break
    logger.info("%s: %d examples, used as they are: their data is missing", path, real)
    report = SplitReport.from_json(found["report"]) if "report" in found else NO_REPORT
    return ExampleFile(path, schema, real, total, report)


def read_description(path: Path) -> dict[str, Any]:
    """Return the description of a TFRecord file under our name or the original's, {} without one.

    Raises:
        DataError: it is no JSON object, or its number of examples is none.
    """
    # The original leaves `.tfrecord` out of the name.
    for place in (meta_path(path), path.with_suffix(".meta.json")):
        if place.is_file():
            found = read_json_object(place, DataError)
            if not isinstance(found.get("num_real_examples", 0), int):
                raise DataError(f"{place}: num_real_examples should be an integer")
            return found
    return {}
