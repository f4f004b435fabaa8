"""Gemini's batch API: operations on requests that are sent inline or in a file."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from .batch_jobs import Job, Jobs, Line
from .connection import RawRequest
from .routes import generation
from .script import Reply, SeenRequest
from .wire import is_object, objects

_STATES = {"validating": "PENDING", "in_progress": "RUNNING", "cancelling": "RUNNING", "completed": "SUCCEEDED"}
_CODES = {400: 3, 401: 16, 402: 8, 403: 7, 404: 5, 408: 4, 409: 10, 413: 3, 429: 8, 499: 1, 500: 13, 504: 4}
"""Canonical codes of HTTP statuses; what is not here is unavailable."""

_UNAVAILABLE = 14


def answer(jobs: Jobs, seen: SeenRequest, raw: RawRequest) -> Reply:
    """Do what a request to the batch API or the files API asks for.

    Args:
        jobs: The server's jobs.
        seen: The request.
        raw: The request as it came.

    Returns:
        The reply.
    """
    query = {name: values[0] for name, values in parse_qs(raw.path.partition("?")[2]).items()}
    match seen.model:
        case "/batches/upload":
            return _upload(jobs, raw, query.get("upload_id", ""))
        case "/batches/results":
            return _content(jobs, seen.batch)
        case "/batches/create":
            return _create(jobs, seen)
        case "/batches/list":
            found, more = jobs.page("google", query.get("pageToken", ""), query.get("pageSize", ""))
            following = {"nextPageToken": found[-1].id} if more else {}
            return Reply(body={"operations": [describe(job) for job in found], **following})
        case _:
            job = jobs.asked(seen)
            if isinstance(job, Reply):
                return job
            return Reply(body={} if seen.model == "/batches/cancel" else describe(job))


def _upload(jobs: Jobs, raw: RawRequest, file_id: str) -> Reply:
    command = raw.headers["x-goog-upload-command"]
    if command == "start":
        file_id = uuid.uuid4().hex[:12]
        jobs.files[file_id] = b""
        url = f"http://{raw.headers['host']}{raw.path}?upload_id={file_id}"
        return Reply(body={}, headers={"x-goog-upload-url": url, "x-goog-upload-status": "active"})
    jobs.files[file_id] += raw.body
    file = {"name": f"files/{file_id}", "sizeBytes": str(len(jobs.files[file_id])), "state": "ACTIVE"}
    status = "final" if "finalize" in command else "active"
    return Reply(body={"file": file}, headers={"x-goog-upload-status": status})


def _create(jobs: Jobs, seen: SeenRequest) -> Reply:
    batch = seen.params["batch"]
    config, path = batch["inputConfig"], seen.path.replace(":batchGenerateContent", ":generateContent")
    if config.get("fileName"):
        content = jobs.files.get(config["fileName"].removeprefix("files/"))
        if content is None:
            return Reply(status=404, text=f"File {config['fileName']} was not found.")
        given = [json.loads(line) for line in content.decode().split("\n") if line.strip()]
        keys = [str(one["key"]) for one in given]
    else:
        given = objects(config["requests"]["requests"])
        keys = [str((one.get("metadata") or {}).get("key", number)) for number, one in enumerate(given)]
    lines: list[Line] = []
    for key, one in zip(keys, given, strict=True):
        request = generation(path, one["request"], seen.headers)
        assert request is not None
        lines.append(Line(key, request))
    if not lines:
        return Reply(status=400, text="The batch has no requests.")
    if jobs.exceeds_capacity(lines):
        return Reply(status=429, text="You exceeded your current quota: enqueued batch tokens.")
    said = {"displayName": batch.get("displayName", ""), "inlined": not config.get("fileName")}
    job = jobs.create("batches/", lines, said)
    described = describe(job)
    jobs.advance(job)
    return Reply(body=described)


def describe(job: Job) -> dict[str, Any]:
    """Build the operation.

    Args:
        job: The job.

    Returns:
        The operation; an expired job has no output, a cancelled one has the answers it got.
    """
    at = datetime.fromtimestamp(job.ended or job.created, UTC).isoformat()
    good, bad = (job.count("done", succeeded=succeeded) for succeeded in (True, False))
    metadata: dict[str, Any] = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "name": job.id,
        "model": f"models/{job.model}",
        "displayName": job.given["displayName"],
        "createTime": datetime.fromtimestamp(job.created, UTC).isoformat(),
        "updateTime": at,
        "state": f"BATCH_STATE_{_STATES.get(job.state, job.state.upper())}",
        "batchStats": {
            "requestCount": str(len(job.lines)),
            "successfulRequestCount": str(good),
            "failedRequestCount": str(bad),
            "pendingRequestCount": str(len(job.lines) - good - bad),
        },
    }
    operation: dict[str, Any] = {"name": job.id, "metadata": metadata, "done": job.ended is not None}
    if job.ended is None:
        return operation
    metadata["endTime"] = at
    if job.state == "completed" and job.fault.partial:
        metadata["state"] = "JOB_STATE_PARTIALLY_SUCCEEDED"
    if job.state in ("failed", "expired"):
        operation["error"] = {"code": 13, "message": job.fault.fails or "The batch expired."}
    elif job.shows_results:
        output: dict[str, Any] = {"responsesFile": f"files/{_file(job)}"}
        if job.given["inlined"]:
            output = {"inlinedResponses": {"inlinedResponses": [_result(line, "inlined") for line in _done(job)]}}
        metadata["output"] = operation["response"] = output
    return operation


def _done(job: Job) -> list[Line]:
    return [line for line in job.results() if line.outcome == "done"]


def _file(job: Job) -> str:
    return job.id.replace("batches/", "batch-")


def _content(jobs: Jobs, file_id: str) -> Reply:
    job = next((job for job in jobs.jobs if _file(job) == file_id), None)
    if job is None:
        return Reply(status=404, text=f"File files/{file_id} was not found.")
    lines = "".join(json.dumps(_result(line, "file")) + "\n" for line in _done(job))
    return Reply(body=lines, headers={"content-type": "application/octet-stream"})


def _result(line: Line, form: str) -> dict[str, Any]:
    key = {"metadata": {"key": line.custom_id}} if form == "inlined" else {"key": line.custom_id}
    if line.succeeded:
        return {**key, "response": line.body}
    said = line.body.get("error")
    message = said.get("message") if is_object(said) else "The request failed."
    return {**key, "error": {"code": _CODES.get(line.status, _UNAVAILABLE), "message": message}}
