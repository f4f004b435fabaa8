"""OpenAI's batch API: files of requests, batches, files of answers and of errors."""

from __future__ import annotations

import json
import re
import time
import uuid
from typing import Any
from urllib.parse import parse_qs

from .batch_jobs import DAY, Job, Jobs, Line
from .connection import RawRequest
from .openai_wire import error
from .routes import generation
from .script import Reply, SeenRequest
from .wire import is_object

_ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings")
_UNDONE = {
    "expired": {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
    "cancelled": {"code": "batch_cancelled", "message": "This request was not executed, as its batch was cancelled."},
}


def answer(jobs: Jobs, seen: SeenRequest, raw: RawRequest) -> Reply:
    """Do what a request to the batch API or the files API asks for.

    Args:
        jobs: The server's jobs.
        seen: The request.
        raw: The request as it came.

    Returns:
        The reply.
    """
    match seen.model:
        case "/batches/upload":
            return _upload(jobs, raw)
        case "/batches/results":
            return _content(jobs, seen.batch)
        case "/batches/create":
            return _create(jobs, seen)
        case "/batches/list":
            return _page(jobs, raw)
        case _:
            job = jobs.asked(seen)
            return job if isinstance(job, Reply) else Reply(body=describe(job))


def _page(jobs: Jobs, raw: RawRequest) -> Reply:
    query = parse_qs(raw.path.partition("?")[2])
    found, more = jobs.page("openai", query.get("after", [""])[0], query.get("limit", [""])[0])
    ends = {"first_id": found[0].id, "last_id": found[-1].id} if found else {}
    return Reply(body={"object": "list", "data": [describe(job) for job in found], "has_more": more, **ends})


def _upload(jobs: Jobs, raw: RawRequest) -> Reply:
    boundary = raw.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    fields: dict[str, bytes] = {}
    filename = "upload"
    for part in raw.body.split(b"--" + boundary)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        said = dict(re.findall(r'(name|filename)="([^"]*)"', head.decode()))
        fields[said["name"]] = data.removesuffix(b"\r\n")
        filename = said.get("filename", filename)
    file_id = f"file-{uuid.uuid4().hex[:24]}"
    jobs.files[file_id] = fields["file"]
    return Reply(
        body={
            "id": file_id,
            "object": "file",
            "bytes": len(fields["file"]),
            "created_at": int(time.time()),
            "filename": filename,
            "purpose": fields["purpose"].decode(),
            "status": "processed",
        }
    )


def _create(jobs: Jobs, seen: SeenRequest) -> Reply:
    params = seen.params
    endpoint, content = params["endpoint"], jobs.files.get(params["input_file_id"])
    if content is None:
        return Reply(status=400, text=f"Cannot find file {params['input_file_id']}.")
    if endpoint not in _ENDPOINTS:
        return Reply(status=400, text=f"Invalid endpoint '{endpoint}'.")
    lines, errors = _read(content, endpoint, seen.headers)
    if not lines:
        return Reply(status=400, text="The file has no request.")
    if jobs.exceeds_capacity(lines):
        code, message = "token_limit_exceeded", f"Enqueued token limit reached for {lines[0].seen.model}."
        if not jobs.refuses_late:
            return Reply(status=429, body=error(429, message, kind="tokens", code=code))
        errors = [{"code": code, "line": None, "message": message, "param": None}]
    job = jobs.create("batch_", lines, {"metadata": None, **params}, errors)
    described = describe(job)
    jobs.advance(job)
    return Reply(body=described)


def _read(content: bytes, endpoint: str, headers: dict[str, str]) -> tuple[list[Line], list[dict[str, Any]]]:
    lines: dict[str, Line] = {}
    errors: list[dict[str, Any]] = []
    for number, text in enumerate(content.decode().removesuffix("\n").split("\n"), 1):

        def wrong(code: str, param: str | None = None, number: int = number) -> None:
            message = f"This line has {code.replace('_', ' ')}."
            errors.append({"code": code, "line": number, "message": message, "param": param})

        try:
            given = json.loads(text)
        except ValueError:
            given = None
        if not is_object(given) or not is_object(given.get("body")):
            wrong("invalid_json_line")
            continue
        custom_id = str(given.get("custom_id", ""))
        request = generation(endpoint, given["body"], headers)
        assert request is not None
        if given.get("method") != "POST" or given.get("url") != endpoint:
            wrong("mismatched_endpoint", "url")
        if not custom_id or custom_id in lines:
            wrong("duplicate_custom_id" if custom_id else "missing_custom_id", "custom_id")
        lines[custom_id] = Line(custom_id, request)
        if request.model != next(iter(lines.values())).seen.model:
            wrong("mismatched_model", "body.model")
    return list(lines.values()), errors


def describe(job: Job) -> dict[str, Any]:
    """Build the batch object.

    Args:
        job: The job.

    Returns:
        The object.
    """
    shown = job.results() if job.shows_results and job.state != "failed" else []
    fails = job.fault.fails
    errors = job.errors or ([{"code": fails, "line": 1, "message": f"The batch failed: {fails}.", "param": None}])
    body: dict[str, Any] = {
        "id": job.id,
        "object": "batch",
        "endpoint": job.given["endpoint"],
        "model": job.model,
        "errors": {"object": "list", "data": errors} if job.state == "failed" else None,
        "input_file_id": job.given["input_file_id"],
        "completion_window": job.given["completion_window"],
        "status": job.state,
        "output_file_id": f"file-{job.id}-output" if any(line.succeeded for line in shown) else None,
        "error_file_id": f"file-{job.id}-error" if any(not line.succeeded for line in shown) else None,
        "created_at": int(job.created),
        "in_progress_at": None if job.state == "validating" else int(job.created),
        "expires_at": int(job.created) + DAY,
        "cancelling_at": None if job.cancelling is None else int(job.cancelling),
        "request_counts": {
            "total": 0 if job.state in ("validating", "failed") else len(job.lines),
            "completed": job.count("done", succeeded=True),
            "failed": job.count("done", succeeded=False) + job.count("expired") + job.count("cancelled"),
        },
        "metadata": job.given["metadata"],
    }
    if job.ended is not None:
        body |= {f"{job.state}_at": int(job.ended), "usage": usage(job)}
    return body


def usage(job: Job) -> dict[str, Any]:
    """Add up what a job's answers used, those included that are in no file."""
    used = [line.body["usage"] for line in job.lines if line.succeeded and is_object(line.body.get("usage"))]

    def total(name: str, part: str | None = None) -> int:
        return sum((one if part is None else one.get(part) or {}).get(name, 0) for one in used)

    return {
        "input_tokens": total("prompt_tokens"),
        "input_tokens_details": {"cached_tokens": total("cached_tokens", "prompt_tokens_details")},
        "output_tokens": total("completion_tokens"),
        "output_tokens_details": {"reasoning_tokens": total("reasoning_tokens", "completion_tokens_details")},
        "total_tokens": total("total_tokens"),
    }


def _content(jobs: Jobs, file_id: str) -> Reply:
    headers = {"content-type": "application/octet-stream"}
    job_id, _, kind = file_id.removeprefix("file-").rpartition("-")
    job = next((job for job in jobs.jobs if job.id == job_id), None)
    if file_id in jobs.files:
        return Reply(body=jobs.files[file_id], headers=headers)
    if job is None:
        return Reply(status=404, text=f"No such File object: {file_id}")
    lines = [line for line in job.results() if line.succeeded == (kind == "output")]
    return Reply(body="".join(json.dumps(_result(line)) + "\n" for line in lines), headers=headers)


def _result(line: Line) -> dict[str, Any]:
    response = None
    if line.outcome == "done":
        response = {"status_code": line.status, "request_id": f"req_{line.seen.index}", "body": line.body}
    return {
        "id": f"batch_req_{uuid.uuid4().hex[:24]}",
        "custom_id": line.custom_id,
        "response": response,
        "error": _UNDONE.get(line.outcome),
    }
