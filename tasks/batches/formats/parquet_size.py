"""How much of a Parquet file is held at once: some hundred bytes may stand for any number of long texts.

A page of a column holds each value as it is, or as a number in the column's dictionary, where a text of 4 MB is written
once for all rows. What the metadata call the uncompressed size is that of the pages, not of the values.
"""

from typing import Any, BinaryIO

from consensus_flows.tasks.batches.formats.unpacking import check_unpacked

BATCH_ROWS = 256
BATCH_BYTES = 300_000_000
"""Of values that are held at once, if every row has the longest of a dictionary; those of most writers hold a megabyte."""
_DICTIONARY_PAGE = 2
_HEADER_BYTES = 32
"""More than the three first fields of a page's header take."""
_LISTS = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")


def check_parquet(metadata: Any, size: int) -> None:
    """Check that what the metadata say of the content is in proportion to the file.

    Args:
        metadata: `pyarrow.parquet.FileMetaData`.
        size: Bytes of the file.

    Raises:
        ConfigurationError: If not.
    """
    chunks = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    # A value takes less than a bit where all are the same, and a byte at least when it is read.
    check_unpacked(sum(max(chunk.total_uncompressed_size, chunk.num_values) for chunk in chunks), size)


def to_be_numbered(file: BinaryIO, metadata: Any) -> list[str]:
    """Return the paths of the texts in lists that are to be read as numbers in their dictionary.

    How many of them a row has cannot be told beforehand. To read them so takes three times as long, so that it is done only
    where they may be too many.

    Args:
        file: The Parquet file.
        metadata: `pyarrow.parquet.FileMetaData`.
    """
    paths: dict[str, None] = {}
    for number in range(metadata.num_columns):
        column = metadata.schema.column(number)
        if column.max_repetition_level and column.physical_type == "BYTE_ARRAY":
            chunks = (metadata.row_group(group).column(number) for group in range(metadata.num_row_groups))
            if any(chunk.num_values * _longest(file, chunk) > BATCH_BYTES for chunk in chunks):
                paths[column.path] = None
    return list(paths)


def rows_at_once(file: BinaryIO, group: Any) -> int:
    """Return how many rows of a row group may be read at once.

    Args:
        file: The Parquet file.
        group: `pyarrow.parquet.RowGroupMetaData`.
    """
    chunks = [group.column(number) for number in range(group.num_columns)]
    longest = sum(_longest(file, chunk) for chunk in chunks if chunk.physical_type == "BYTE_ARRAY")
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, longest)))


def _longest(file: BinaryIO, chunk: Any) -> int:
    """Return the most bytes that a value may have more than it has in its page."""
    if "DELTA_BYTE_ARRAY" in chunk.encodings:  # each value as what it has in common with the one before, and the rest
        return int(chunk.total_uncompressed_size)
    at = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
    if chunk.dictionary_page_offset == at == 0:
        return 0
    file.seek(at)
    kind, size = _page(file.read(_HEADER_BYTES))
    return size if kind == _DICTIONARY_PAGE else 0


def _page(header: bytes) -> tuple[int, int]:
    """Read kind and uncompressed size at the beginning of a page's header; (-1, 0) if it is none.

    The first fields are numbers in Thrift's compact protocol: https://github.com/apache/parquet-format.
    """
    values: list[int] = []
    at = 0
    try:
        for _ in range(2):
            if header[at] != 0x15:  # the next field, a number of 32 bits
                return -1, 0
            value = shift = 0
            while True:
                at += 1
                value |= (header[at] & 0x7F) << shift
                shift += 7
                if header[at] < 0x80:
                    break
            at += 1
            values.append((value >> 1) ^ -(value & 1))
    except IndexError:
        return -1, 0
    return values[0], values[1]


def bytes_of(pa: Any, array: Any) -> int:
    """Return about how many bytes the values of an array take as Python's objects, without making them.

    Args:
        pa: The module `pyarrow`.
        array: An array of any type.
    """
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    kind, size = array.type, 8 * len(array)
    if isinstance(array, pa.ExtensionArray):
        return bytes_of(pa, array.storage)
    if pa.types.is_dictionary(kind):
        if not hasattr(array.dictionary, "dictionary") and _is_text(pa, array.dictionary.type):
            lengths = pc.binary_length(array.dictionary)
            return size + int(pc.sum(pc.take(lengths, array.indices)).as_py() or 0)
        return size + 64 * len(array)
    if pa.types.is_map(kind):  # `keys` and `items` are those of the whole array of which this may be a part
        first, last = (array.offsets[at].as_py() for at in (0, -1))
        return size + sum(bytes_of(pa, part.slice(first, last - first)) for part in (array.keys, array.items))
    if any(getattr(pa.types, name)(kind) for name in _LISTS):
        return size + bytes_of(pa, array.flatten())
    if pa.types.is_struct(kind):
        return size + sum(bytes_of(pa, part) for part in array.flatten())
    return size + int(array.nbytes)


def _is_text(pa: Any, kind: Any) -> bool:
    return any(
        getattr(pa.types, name)(kind) for name in ("is_string", "is_large_string", "is_binary", "is_large_binary")
    )
