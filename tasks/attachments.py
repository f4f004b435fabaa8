"""Images and files that a question is about: read once, and kept by their digest, so that every call sends the same bytes.

A request carries name, type, size and digest. The bytes are in a folder of Prefect's home, under their digest, and are read
from there and checked when a call is sent: a run that is resumed sends what it has sent before, whatever has become of the file.
"""

import base64
import hashlib
import io
import mimetypes
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes, urlsplit

import httpx
from prefect.settings import get_current_settings

from consensus_flows.tasks.addresses import confined, place_of
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import atomic_write, deployed, place
from consensus_flows.tasks.record import PDF, Attachment

MAX_MB = 20.0
"""Megabytes that the files of one question may have together: what vendors take in one request is 20 to 50, in base64."""
MOST = "CONSENSUS_MAX_ATTACHMENT_MB"
"""The environment variable that names another number."""
FETCH_S = 30.0
"""Seconds that a server may take to send the next part of a file."""
HOSTS = "CONSENSUS_ATTACHMENT_HOSTS"
"""The environment variable that names the hosts from which a deployed run, or the gateway, may fetch files."""
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"%PDF-": PDF,
}
_NAMED = ("image/", "audio/", "video/")
"""Types by which a text is not named, whatever the ending of its file: SVG is a text."""


def attachments_folder() -> Path:
    """Return the folder in which files are kept."""
    return get_current_settings().home / "consensus-attachments"


def attach(sources: Sequence[str | Attachment], parameter: str = "attachments") -> tuple[Attachment, ...]:
    """Read files and keep them.

    Args:
        sources: Paths, http(s) or data URLs, addresses that fsspec understands; what is kept already stays as it is.
        parameter: What they were given as; errors name it.

    Raises:
        ConfigurationError: If one cannot be read or sent to any model, or they are too large together.
    """
    found = []
    for source in sources:
        found.append(source if isinstance(source, Attachment) else attached(source, parameter))
        check_size(sum(one.size for one in found), parameter)
    return tuple(found)


def check_size(size: int, parameter: str = "attachments") -> None:
    """Check that files are not too large together.

    Raises:
        ConfigurationError: If they are.
    """
    most = _max_bytes()
    if size > most:
        raise ConfigurationError(
            f"the files of a question have more than {most / 1e6:g} MB: attach less, or raise {MOST} to what the "
            "vendors of your models take",
            field=parameter,
        )


def keep(data: bytes, name: str, media_type: str | None = None, *, parameter: str = "attachments") -> Attachment:
    """Keep a file.

    Args:
        data: Its bytes.
        name: What it is called.
        media_type: Its media type; None to find it out.
        parameter: What it was given as; errors name it.

    Raises:
        ConfigurationError: If it is of a type that no model is sent.
    """
    made = described(data, name, media_type, parameter=parameter)
    path = attachments_folder() / made.sha256
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.utime(path)  # what is used stays when old files are deleted
    except FileNotFoundError:
        with atomic_write(path, mode=0o600) as part:
            part.write_bytes(data)
    return made


def described(data: bytes, name: str, media_type: str | None = None, *, parameter: str = "attachments") -> Attachment:
    """Describe a file without keeping it; see `keep`.

    Raises:
        ConfigurationError: If it is of a type that no model is sent.
    """
    if not data:
        raise ConfigurationError(f"{name} is empty", field=parameter)
    check_size(len(data), parameter)
    found = media_type or type_of(data, name)
    if found is None or (not found.startswith("image/") and found != PDF and not _is_text(data)):
        raise ConfigurationError(
            f"{name} is neither an image (PNG, JPEG, GIF, WebP) nor a PDF, nor text in UTF-8", field=parameter
        )
    return Attachment(
        name=name,
        type=found,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        pages=_pages(data, name, parameter) if found == PDF else None,
    )


def looked_at(path: Path, parameter: str = "attachments") -> Attachment:
    """Describe a file without keeping it, and an image by its beginning alone: a batch may have thousands.

    Raises:
        ConfigurationError: If it cannot be read, or is of a type that no model is sent.
    """
    try:
        with path.open("rb") as file:
            head, size = file.read(16), path.stat().st_size
            found = _by_signature(head)
            if found is None or found == PDF:
                check_size(size, parameter)
                return described(head + file.read(), path.name, parameter=parameter)
    except OSError as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error.strerror or error}", field=parameter) from None
    check_size(size, parameter)
    return Attachment(name=path.name, type=found, sha256="0" * 64, size=size)


def type_of(data: bytes, name: str) -> str | None:
    """Return the media type of a file by what is in it; None for one that no model is sent."""
    if found := _by_signature(data):
        return found
    if not _is_text(data):
        return None
    guessed = mimetypes.guess_type(name)[0]
    return guessed if guessed and not guessed.startswith(_NAMED) and guessed != PDF else "text/plain"


def _by_signature(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((found for signature, found in _SIGNATURES.items() if head.startswith(signature)), None)


def content_of(attachment: Attachment) -> bytes:
    """Return the bytes of a file that was kept.

    Raises:
        ConfigurationError: If they are no longer there, or are not what was attached.
    """
    path = attachments_folder() / attachment.sha256
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the attachment {attachment.name} is no longer in {path.parent} ({error.strerror}): attach the file again"
        ) from None
    if hashlib.sha256(data).hexdigest() != attachment.sha256:
        raise ConfigurationError(
            f"the attachment {attachment.name} was changed in {path.parent}: attach the file again"
        )
    return data


@lru_cache(maxsize=8)
def base64_of(attachment: Attachment) -> str:
    """Return the bytes of a file as base64; the members of a panel are sent the same within a moment.

    Raises:
        ConfigurationError: As `content_of`.
    """
    return base64.b64encode(content_of(attachment)).decode()


def data_url(attachment: Attachment) -> str:
    """Return a file as a data URL.

    Raises:
        ConfigurationError: As `content_of`.
    """
    return f"data:{attachment.type};base64,{base64_of(attachment)}"


def text_of(attachment: Attachment) -> str:
    """Return a file that is text.

    Raises:
        ConfigurationError: As `content_of`.
    """
    return content_of(attachment).decode("utf-8-sig", "replace")


def from_data_url(url: str, name: str, parameter: str = "attachments") -> Attachment:
    """Keep what is in a data URL.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    head, comma, body = url.removeprefix("data:").partition(",")
    said, *options = head.split(";")
    try:
        data = base64.b64decode(body, validate=True) if "base64" in options else unquote_to_bytes(body)
    except ValueError:
        comma = ""
    if not comma:
        raise ConfigurationError("a data URL is data:image/png;base64,... with the bytes in base64", field=parameter)
    return keep(data, name, type_of(data, name) or said, parameter=parameter)


def is_url(source: str) -> bool:
    """Tell whether a source is an http(s) URL."""
    return source.lower().startswith(("http://", "https://"))


def local_file(source: str, parameter: str, folder: Path | None = None) -> Path:
    """Return the file that a path names; it is there.

    Raises:
        ConfigurationError: If it is none, or a deployed run must not read it.
    """
    path = place(source if folder is None else folder / Path(source).expanduser(), parameter)
    if not path.is_file():
        raise ConfigurationError(f"no such file: {source}", field=parameter)
    return path


def attached(source: str, parameter: str, *, media_type: str | None = None, anywhere: bool | None = None) -> Attachment:
    """Read a file and keep it.

    Args:
        source: A path, an http(s) or data URL, or an address that fsspec understands.
        parameter: What it was given as; errors name it.
        media_type: Its media type; None to find it out.
        anywhere: Whether it may be fetched from any host; None for all but deployed runs.

    Raises:
        ConfigurationError: If it cannot be read, or is of a type that no model is sent.
    """
    source = source.strip()
    if source.startswith("data:"):
        return from_data_url(source, "attachment", parameter)
    if is_url(source):
        data = fetched(source, parameter, anywhere=not deployed() if anywhere is None else anywhere)
        url = urlsplit(source)
        return keep(data, PurePosixPath(url.path).name or str(url.hostname), media_type, parameter=parameter)
    if "://" in source:
        data = stored(source, parameter)
        return keep(data, PurePosixPath(urlsplit(source).path).name or source, media_type, parameter=parameter)
    path = local_file(source, parameter)
    check_size(path.stat().st_size, parameter)
    try:
        return keep(path.read_bytes(), path.name, media_type, parameter=parameter)
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror or error}", field=parameter) from None


def stored(address: str, parameter: str) -> bytes:
    """Read a file of a store, such as s3://bucket/chart.png.

    Args:
        address: An address that fsspec understands.
        parameter: What it was given as; errors name it.

    Raises:
        ConfigurationError: If it cannot be read, or a deployed run must not read it.
    """
    place = place_of(confined(address, parameter), parameter)
    try:
        check_size(place.fs.size(place.path) or 0, parameter)
        return bytes(place.fs.cat_file(place.path))
    except FileNotFoundError:
        raise ConfigurationError(f"no such file: {address}", field=parameter) from None
    except ConfigurationError:
        raise
    except Exception as error:  # whatever the client of a store raises: no credentials, no network, no such bucket
        raise ConfigurationError(
            f"{address} cannot be read: {type(error).__name__}: {str(error)[:200]}", field=parameter
        ) from None


def fetched(url: str, parameter: str, *, anywhere: bool) -> bytes:
    """Fetch a file.

    Args:
        url: Its http(s) URL.
        parameter: What it was given as; errors name it.
        anywhere: Whether it may come from any host. Who asks over a server must not reach what only that server can.

    Raises:
        ConfigurationError: If it cannot be fetched.
    """
    host = urlsplit(url).hostname or ""
    allowed = [one.strip().lower() for one in os.environ.get(HOSTS, "").split(",") if one.strip()]
    if not anywhere and host.lower() not in allowed:
        raise ConfigurationError(
            f"nothing is fetched from {host or 'a URL'} here: send the file as a data URL, or name the host in {HOSTS} where "
            "this runs",
            field=parameter,
        )
    data = bytearray()
    try:
        # A redirect may lead to a host that was not named.
        with httpx.stream("GET", url, follow_redirects=anywhere, timeout=FETCH_S) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                data += part
                check_size(len(data), parameter)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        cause = (
            f"HTTP {error.response.status_code}"
            if isinstance(error, httpx.HTTPStatusError)
            else f"{type(error).__name__} {error}".strip()
        )
        raise ConfigurationError(f"{url} cannot be fetched: {cause}", field=parameter) from None
    return bytes(data)


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _pages(data: bytes, name: str, parameter: str) -> int:
    """Count the pages, by which vendors bill; a damaged or encrypted file is found before anybody is asked."""
    from pypdf import PdfReader

    try:
        return len(PdfReader(io.BytesIO(data)).pages)
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ConfigurationError(
            f"{name} cannot be read as a PDF: {type(error).__name__} {error}", field=parameter
        ) from None


def _max_bytes() -> int:
    given = os.environ.get(MOST) or MAX_MB
    try:
        return int(float(given) * 1_000_000)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{MOST} is {given!r}: write a number of megabytes") from None
