"""Where a file is: a local path, or an address that `fsspec` understands; and which of them a run may touch."""

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import deployed, place

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
"""The extra of this package with which an address can be reached, by the address's scheme.

These stores are also all that a run which was started from a deployment may reach beside its folder.
"""

EXAMPLES = Path(__file__).parent / "examples"
"""Files that come with the package, so that its deployments run as they are."""
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
        raise ConfigurationError(f"{parameter}: must not be empty: use a path or a URL such as s3://bucket/file.jsonl")
    scheme = address.partition("://")[0] if "://" in address else ""
    try:
        fs, path = url_to_fs(address)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        how = f"pip install 'consensus-flows[{extra}]'" if extra else str(error)
        raise ConfigurationError(
            f"{parameter}: {scheme}:// URLs require a module that is not installed: {how}"
        ) from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{parameter}: {address} cannot be used: {error}") from None
    return Place(address, fs, str(path))


def whole(address: str, parameter: str) -> str:
    """Return an address as it holds wherever one stands: that of a local file is its absolute path.

    Raises:
        ConfigurationError: As of `place_of`.
    """
    place = place_of(address, parameter)
    return place.path if place.local else place.address


def input_address(address: str) -> str:
    """Return the address of an input that may be read.

    It is confined, but where the worker's folder has no such file, a deployed run may read `examples/NAME` of the package.

    Raises:
        ConfigurationError: As of `confined`.
    """
    found = confined(address, "input")
    if deployed() and not Path(found).exists():
        return next((str(one.resolve()) for one in EXAMPLES.iterdir() if address == f"examples/{one.name}"), found)
    return found


def confined(address: str, parameter: str) -> str:
    """Return an address that a parameter names, where it may be read and written.

    Who runs a batch oneself may read and write what one may. A run that was started from a deployment stays in the
    worker's folder, as `place` has it, or goes to a store in the cloud, with what the worker itself may do there. Every
    other file system of fsspec is refused: those that read through another one (`simplecache::file:///etc`), those that
    fetch from whatever host is named, and the next one that fsspec will have.

    Args:
        address: A local path, or `scheme://...`.
        parameter: What the address was given as; errors name it.

    Raises:
        ConfigurationError: If the run was started from a deployment, and the address leads elsewhere.
    """
    if not deployed():
        return address
    from fsspec.utils import get_protocol  # type: ignore[import-untyped]

    address = str(address).strip()
    if not address:
        raise ConfigurationError(f"{parameter}: must not be empty: use a path or a URL such as s3://bucket/file.jsonl")
    protocol = get_protocol(address)
    if "::" not in address:
        if protocol in EXTRAS:
            return address
        if _is_local(protocol):
            return str(place(address.partition("://")[2] if "://" in address else address, parameter))
    stores = ", ".join(f"{scheme}://" for scheme in EXTRAS)
    raise ConfigurationError(
        f"{parameter}: {address!r} is neither a path nor an address of a store ({stores}): nothing else is read or written "
        "by a run that was started from a deployment"
    )


def _is_local(protocol: str) -> bool:
    """Tell whether fsspec takes an address for a path of this machine, whatever it calls that today."""
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
    from fsspec.registry import known_implementations, registry  # type: ignore[import-untyped]

    if protocol in registry:
        return issubclass(registry[protocol], LocalFileSystem)
    named = known_implementations.get(protocol, {}).get("class")
    return bool(named == f"{LocalFileSystem.__module__}.{LocalFileSystem.__qualname__}")
