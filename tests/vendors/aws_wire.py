"""Amazon's event stream, in which Bedrock sends what Anthropic sends as server-sent events."""

from __future__ import annotations

import base64
import json
import struct
import zlib


def event_stream(events: list[bytes]) -> list[bytes]:
    """Turn server-sent events of Anthropic's into messages of an event stream.

    Args:
        events: The events; an error becomes an exception.

    Returns:
        The messages.
    """
    made: list[bytes] = []
    for event in events:
        data = json.loads(event.partition(b"data: ")[2])
        if data.get("type") == "error":
            kind, payload = "exception", {"message": data["error"]["message"]}
            headers = {":exception-type": "modelStreamErrorException", ":content-type": "application/json"}
        else:
            kind, payload = "event", {"bytes": base64.b64encode(json.dumps(data).encode()).decode()}
            headers = {":event-type": "chunk", ":content-type": "application/json"}
        made.append(_message({":message-type": kind, **headers}, json.dumps(payload).encode()))
    return made


def _message(headers: dict[str, str], payload: bytes) -> bytes:
    """Frame one message: lengths and their checksum, headers, payload, and the checksum of it all."""
    head = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))
