"""The digest of a record, which an attestation token repeats.

Anybody can compute it anew, in any language:

- The digest is the SHA-256, as 64 lower-case hexadecimal digits, of the parts as canonical JSON (RFC 8785: keys sorted, no
  spaces, UTF-8).
- The parts are those of `AttestedParts`. `flow` is that of the record; `run_id` is that of the record, or else its
  `flow_run_id`.
- `prompt` and `answer` are the SHA-256 of the text in UTF-8: `jq -j .answer record.json | sha256sum`.
- `models` are the names `provider/model` of all calls, sorted, each once.
- `calls` is the SHA-256 of the canonical JSON of a list `[member, text, cached, recorded]` for each call, in the order of the record:
  iteration by iteration its responses, embeddings and judgements.
- `conversation` is the SHA-256 of the canonical JSON of the earlier messages, each `{"role": ..., "content": ...}`.
- `configuration` is the SHA-256 of the canonical JSON of the settings that differ from their defaults, without `attestation`,
  with numbers as Python writes them.
- `endpoints` holds for each model the base URL of its provider.

The token repeats the digest as a nonce of its own, `consensus:` and the digest. No challenge may begin so: else a caller
could have any digest attested by giving it as the challenge.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from consensus_flows.tasks.record import AttestedParts, Record

AUDIENCE = "consensus-flows"
"""For whom a token is made, where nothing is said."""
NONCE_PREFIX = "consensus:"


def canonical(value: Any) -> bytes:
    """Return a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace")  # half a character becomes a question mark, as where a record is written


def sha256(data: bytes) -> str:
    """Return the SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def recorded_parts(record: Record) -> dict[str, Any]:
    """Return the parts that follow from a record."""
    calls = record.calls_made()
    return {
        "flow": record.flow,
        "run_id": record.run_id or record.flow_run_id,
        "prompt": sha256(record.prompt.encode("utf-8", "replace")),
        "answer": sha256((record.answer or "").encode("utf-8", "replace")),
        "models": sorted({f"{call.provider}/{call.model}" for call in calls}),
        "calls": sha256(canonical([[call.member, call.text, call.cached, call.recorded] for call in calls])),
    }


def configuration_digest(configuration: BaseModel) -> str:
    """Return the SHA-256 of the settings of a run; by whom and for whom it is attested is none of them."""
    return sha256(canonical(configuration.model_dump(mode="json", exclude_defaults=True, exclude={"attestation"})))


def parts_of(
    record: Record,
    *,
    configuration: BaseModel,
    conversation: Sequence[Mapping[str, Any]],
    endpoints: Mapping[str, str],
    time: str,
) -> AttestedParts:
    """Return what is attested of a run.

    Args:
        record: The record, which is complete.
        configuration: The settings.
        conversation: The earlier messages.
        endpoints: For each model the base URL of its provider.
        time: When the run ended.
    """
    return AttestedParts(
        **recorded_parts(record),
        configuration=configuration_digest(configuration),
        conversation=sha256(canonical(conversation)) if conversation else None,
        endpoints=dict(endpoints),
        time=time,
    )


def digest_of(parts: AttestedParts) -> str:
    """Return the digest of the parts."""
    return sha256(canonical(parts.model_dump(mode="json")))


def nonce_of(digest: str) -> str:
    """Return the nonce in which a token repeats a digest."""
    return NONCE_PREFIX + digest
