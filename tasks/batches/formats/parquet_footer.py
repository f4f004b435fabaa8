"""Looks into a Parquet file's metadata in a process of its own: pyarrow ends the process over some that are damaged.

Where the sizes in the metadata of a column do not fit its levels, Arrow's library throws what its Python module does not
catch (pyarrow 26.0), and the batch would die without a word.
"""

import os
import subprocess
import sys
from typing import BinaryIO

from consensus_flows.tasks.errors import ConfigurationError

SECONDS = 60.0
"""For which the other process may look; importing pyarrow takes half of one."""
_END_BYTES = 8
"""The length of the metadata, and `PAR1`."""
_LOOK = """
import io, sys
import pyarrow.parquet as pq
found = pq.read_metadata(io.BytesIO(sys.stdin.buffer.read()))
for group in range(found.num_row_groups):
    for column in range(found.num_columns):
        found.row_group(group).column(column).to_dict()
"""


def check_footer(file: BinaryIO) -> None:
    """Check that a Parquet file's metadata can be read.

    Raises:
        ConfigurationError: If pyarrow fails over them, or would end the process.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_BYTES))
    end = file.read(_END_BYTES)
    length = int.from_bytes(end[:4], "little") + len(end)
    if end[4:] != b"PAR1" or length > size:
        raise ConfigurationError("input: it cannot be read as Parquet: it does not end as one")
    file.seek(size - length)
    # Metadata are found from the end of a file, whatever is before them.
    look = [sys.executable, "-P", "-c", _LOOK]
    # No shell, and of what others made only the bytes are handed over.
    done = subprocess.run(  # noqa: S603
        look, input=b"PAR1" + file.read(), capture_output=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        raise ConfigurationError("input: it cannot be read as Parquet: its metadata are damaged")
