"""Rows of a parquet file, a batch at a time; needs the package pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from funnel.utils.compressed import STANDARD_INPUT
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import name_read_errors

_ROWS = 1024  # rows in memory at a time


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of every row, from 1, and its values by column.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: the file cannot be read, or is no parquet file.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    if str(path) == STANDARD_INPUT:
        raise DataError(
            "a parquet file is not read in order: name the file, not the standard input"
        )
    with name_read_errors(path):
        try:
            with parquet.ParquetFile(path) as file:
                batches = file.iter_batches(batch_size=_ROWS)
                rows = chain.from_iterable(batch.to_pylist() for batch in batches)
                yield from enumerate(rows, start=1)
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: no readable parquet file: {reason}") from None
