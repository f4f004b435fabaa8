"""Anthropic's message batches: requests sent inline, results as JSON lines."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from .anthropic_wire import error
from .batch_jobs import DAY, Job, Jobs, Line
from .connection import RawRequest
from .routes import generation
from .script import Reply, SeenRequest
from .wire import is_object, objects

_STATUS = {"validating": "in_progress", "in_progress": "in_progress", "cancelling": "canceling"}


def answer(jobs: Jobs, seen: SeenRequest, raw: RawRequest) -> Reply:
    """Do what a request to the batch API asks for.

    Args:
        jobs: The server's jobs.
        seen: The request.
        raw: The request as it came.

    Returns:
        The reply.
    """
    host = raw.headers["host"]
    if seen.model == "/batches/create":
        return _create(jobs, seen, host)
    if seen.model == "/batches/list":
        query = parse_qs(raw.path.partition("?")[2])
        found, more = jobs.page("anthropic", query.get("after_id", [""])[0], query.get("limit", [""])[0])
        ends = {"first_id": found[0].id if found else None, "last_id": found[-1].id if found else None}
        return Reply(body={"data": [describe(job, host) for job in found], "has_more": more, **ends})
    job = jobs.asked(seen)
    if isinstance(job, Reply):
        return job
    if seen.model == "/batches/results":
        lines = "".join(json.dumps(_result(line)) + "\n" for line in job.results())
        return Reply(body=lines, headers={"content-type": "application/x-jsonl"})
    return Reply(body=describe(job, host))


def _create(jobs: Jobs, seen: SeenRequest, host: str) -> Reply:
    lines: dict[str, Line] = {}
    for number, given in enumerate(objects(seen.params.get("requests"))):
        custom_id, params = given.get("custom_id"), given.get("params")
        if not isinstance(custom_id, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", custom_id) or custom_id in lines:
            message = f"requests.{number}.custom_id: Must be unique and match '^[a-zA-Z0-9_-]{{1,64}}$'"
            return Reply(status=400, text=message)
        request = generation("/v1/messages", params if is_object(params) else {}, seen.headers)
        assert request is not None
        lines[custom_id] = Line(custom_id, request)
    if not lines:
        return Reply(status=400, text="requests: At least one request is required")
    if jobs.exceeds_capacity(list(lines.values())):
        return Reply(status=429, text="This request would exceed the number of batch requests in the processing queue.")
    job = jobs.create("msgbatch_", list(lines.values()), {})
    described = describe(job, host)
    jobs.advance(job)
    return Reply(body=described)


def describe(job: Job, host: str) -> dict[str, Any]:
    """Build the message batch; what became of its lines is counted once it has ended.

    Args:
        job: The job.
        host: Host and port at which its results are.

    Returns:
        The message batch.
    """
    ended = job.ended is not None
    results = [_result(line)["result"]["type"] if ended else "processing" for line in job.lines]
    counted = ("processing", "succeeded", "errored", "canceled", "expired")
    return {
        "id": job.id,
        "type": "message_batch",
        "processing_status": _STATUS.get(job.state, "ended"),
        "request_counts": {name: results.count(name) for name in counted},
        "created_at": _time(job.created),
        "expires_at": _time(job.created + DAY),
        "ended_at": _time(job.ended),
        "archived_at": None,
        "cancel_initiated_at": _time(job.cancelling),
        "results_url": f"http://{host}/v1/messages/batches/{job.id}/results" if job.shows_results else None,
    }


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


def _result(line: Line) -> dict[str, Any]:
    result: dict[str, Any] = {"type": {"cancelled": "canceled"}.get(line.outcome, line.outcome)}
    if line.succeeded:
        usage = {"usage": line.body["usage"] | {"service_tier": "batch"}} if is_object(line.body.get("usage")) else {}
        result = {"type": "succeeded", "message": line.body | usage}
    elif line.outcome == "done":
        result = {"type": "errored", "error": line.body}
    elif line.outcome == "waiting":  # of a job that failed as a whole
        result = {"type": "errored", "error": error(400, "The request is invalid.")}
    return {"custom_id": line.custom_id, "result": result}
