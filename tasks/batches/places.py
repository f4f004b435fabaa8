"""Where rows come from and go to: a local path, or an address that `fsspec` understands."""

from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tasks.errors import ConfigurationError

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
}
"""The extra of this package with which an address can be reached, by the address's scheme."""

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}


class Place(NamedTuple):
    """A file or folder in a file system of fsspec."""

    address: str
    fs: Any
    path: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def local(self) -> bool:
        """Whether it is a path of this machine."""
        return "file" in _protocols(self.fs)

    def suffixes(self) -> tuple[str, str | None]:
        """Return the ending that tells the format, in lower case, and the compression if there is one."""
        path = PurePosixPath(self.path.lower())
        compression = COMPRESSIONS.get(path.suffix)
        return (PurePosixPath(path.stem).suffix if compression else path.suffix), compression


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def place_of(address: str, parameter: str) -> Place:
    """Find the file system of an address.

    Args:
        address: A local path, or `scheme://...`.
        parameter: What the address was given as; errors name it.

    Raises:
        ConfigurationError: If there is no such file system, or the module for it is not installed.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # takes 0.1 s to import

    address = str(address).strip()
    if not address:
        raise ConfigurationError(f"{parameter}: it is empty: give a path or an address such as s3://bucket/file.jsonl")
    scheme = address.partition("://")[0] if "://" in address else ""
    try:
        fs, path = url_to_fs(address)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        how = f"pip install 'consensus-flows[{extra}]'" if extra else str(error)
        raise ConfigurationError(f"{parameter}: {scheme}:// addresses need a module that is not here: {how}") from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{parameter}: {address} cannot be used: {error}") from None
    return Place(address, fs, str(path))
