"""The Parquet files of a run folder: their schema, how they are made from JSON lines, and how they are read.

This module imports pyarrow inside its functions, and never pandas. pyarrow reads the lines by itself with the schema
given; if Python values were converted, pyarrow would import pandas to see whether they are pandas' own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.files import open_file
from testbed.runlog.tables import TABLES

CHUNK_BYTES = 2**18  # lines converted at a time; ten times as much memory, however long a run is
LEAST_ROWS = 10_000  # up to this, a Parquet file may have more rows than bytes


def arrow_schema(table: str) -> Any:
    """The pyarrow schema of a table."""
    import pyarrow

    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "str": pyarrow.string(), "bool": pyarrow.bool_()}
    return pyarrow.schema([(column.name, types[column.dtype]) for column in TABLES[table]])


def write_parquet(lines: Path, target: Path, table: str) -> None:
    """Write the rows of a file that `RunLog` wrote as Parquet; without the file, a Parquet file without rows.

    Raises OSError if a file cannot be read or written, and ValueError for lines that are not rows of the table.
    """
    import pyarrow.parquet

    schema = arrow_schema(table)
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for rows in _read_chunks(lines, schema):
            writer.write_table(rows)


def _read_chunks(lines: Path, schema: Any) -> Iterator[Any]:
    """Yield the rows as pyarrow tables."""
    import pyarrow.json

    if not lines.exists():
        return
    shape = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    with lines.open("rb") as file:
        while chunk := b"".join(file.readlines(CHUNK_BYTES)):
            once = pyarrow.json.ReadOptions(use_threads=False, block_size=len(chunk))
            yield pyarrow.json.read_json(pyarrow.BufferReader(chunk), once, shape)


def read_parquet(path: Path) -> Any:
    """The rows of a Parquet file as a pyarrow table; raises ConfigError if the file is damaged."""
    import pyarrow
    import pyarrow.parquet

    with open_file(path) as file:
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            rows, size = parquet.metadata.num_rows, os.fstat(file.fileno()).st_size
            if rows > max(LEAST_ROWS, size):  # each row has another time, so it takes at least a byte
                raise ConfigError(f"{path} says that it holds {rows} rows, which {size} bytes cannot")
            return parquet.read()
        except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
