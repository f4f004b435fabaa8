"""The loopback vendors' batch APIs, seen through the vendors' own SDKs."""

from __future__ import annotations

import io
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types.messages import MessageBatch
from google import genai
from google.genai import types
from google.genai.errors import ClientError, ServerError
from openai.types import Batch

from tests.vendors import JobFault, LoopbackVendors, Reply, faults
from tests.vendors import Usage as Counts

LUNA, HAIKU, FLASH = "gpt-6-luna", "claude-haiku-4-5", "gemini-3.8-flash"


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackVendors]:
    with LoopbackVendors() as vendors:
        yield vendors


@pytest.fixture
def vendors(server: LoopbackVendors) -> LoopbackVendors:
    server.reset()
    return server


class TestOpenAI:
    @pytest.fixture(scope="class")
    def client(self, server: LoopbackVendors) -> openai.OpenAI:
        return openai.OpenAI(base_url=server.openai_url, api_key="sk-test", max_retries=0)

    @staticmethod
    def lines(*custom_ids: str, **more: Any) -> bytes:
        endpoint = "/v1/chat/completions"
        return b"".join(
            json.dumps(
                {
                    "custom_id": custom_id,
                    "method": "POST",
                    "url": endpoint,
                    "body": {"model": LUNA, "messages": [{"role": "user", "content": f"Question {custom_id}"}]},
                }
                | more
            ).encode()
            + b"\n"
            for custom_id in custom_ids
        )

    def created(self, client: openai.OpenAI, *custom_ids: str, content: bytes | None = None) -> Batch:
        file = client.files.create(file=("wave.jsonl", content or self.lines(*custom_ids)), purpose="batch")
        return client.batches.create(
            completion_window="24h",
            endpoint="/v1/chat/completions",
            input_file_id=file.id,
            metadata={"consensus": "".join(custom_ids)},
        )

    @staticmethod
    def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
        return [json.loads(line) for line in client.files.content(file_id or "").text.splitlines()]

    def results(self, client: openai.OpenAI, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        def of(file_id: str | None) -> dict[str, Any]:
            return {} if file_id is None else {line["custom_id"]: line for line in self.read(client, file_id)}

        return of(batch.output_file_id), of(batch.error_file_id)

    def test_a_job_from_file_to_answers(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.script(LUNA, Reply(text="18", usage=Counts(input=100, output=7, cached=40, reasoning=2)))
        new = self.created(client, "a", "b")
        assert (new.status, new.output_file_id, new.model) == ("validating", None, LUNA)
        assert abs(new.created_at - time.time()) < 5
        assert new.metadata == {"consensus": "ab"}
        done = client.batches.retrieve(new.id)
        assert (done.status, done.error_file_id) == ("completed", None)
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (2, 2, 0)
        good, bad = self.results(client, done)
        assert bad == {}
        assert list(good) == ["b", "a"], "results come in another order"
        response = good["a"]["response"]
        assert (response["status_code"], good["a"]["error"]) == (200, None)
        assert response["body"]["choices"][0]["message"]["content"] == "18"
        assert response["body"]["service_tier"] == "default"
        assert done.usage is not None
        other = good["b"]["response"]["body"]["usage"]
        assert done.usage.input_tokens == 100 + other["prompt_tokens"]
        assert done.usage.output_tokens == 7 + other["completion_tokens"]
        assert done.usage.input_tokens_details.cached_tokens == 40
        assert done.usage.output_tokens_details.reasoning_tokens == 2
        assert vendors.count(LUNA) == 2
        assert {seen.batch for seen in vendors.seen if seen.kind == "chat"} == {new.id}
        assert vendors.jobs.executions == Counter(a=1, b=1)

    def test_an_errored_line_is_in_the_error_file(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.script(LUNA, faults.unsupported_value(), faults.close_before())
        done = client.batches.retrieve(self.created(client, "a", "b", "c").id)
        good, bad = self.results(client, done)
        assert list(good) == ["c"]
        assert bad["a"]["response"]["status_code"] == 400
        assert bad["a"]["response"]["body"]["error"]["code"] == "unsupported_value"
        assert bad["b"]["response"]["status_code"] == 500
        assert done.request_counts is not None and done.request_counts.failed == 2

    def test_the_clock_ends_a_job_that_nobody_looks_at(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.delay = 0.2
        batch = self.created(client, *"abcd")
        assert client.batches.retrieve(batch.id).status == "in_progress"
        assert vendors.jobs.executions.total() == 2
        time.sleep(0.25)
        assert vendors.jobs.executions.total() == 4
        assert client.batches.retrieve(batch.id).status == "completed"

    def test_a_held_job_ends_by_hand(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.hold, vendors.jobs.done_share = True, 0.75
        one, two = self.created(client, *"abcd"), self.created(client, *"efgh")
        held = client.batches.retrieve(one.id)
        assert held.request_counts is not None
        assert (held.status, held.request_counts.completed, held.output_file_id) == ("in_progress", 3, None)
        vendors.jobs.finish(one.id)
        assert [client.batches.retrieve(job.id).status for job in (one, two)] == ["completed", "in_progress"]
        vendors.jobs.finish()
        assert client.batches.retrieve(two.id).status == "completed"

    def test_a_cancelled_job_keeps_what_was_done(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.hold, vendors.jobs.cancel_delay = True, 0.1
        batch = client.batches.cancel(self.created(client, *"abcd").id)
        assert batch.status == "cancelling"
        assert client.batches.retrieve(batch.id).status == "cancelling"
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
        good, bad = self.results(client, batch)
        assert (batch.status, set(good), set(bad)) == ("cancelled", {"a", "b"}, {"c", "d"})
        assert {line["error"]["code"] for line in bad.values()} == {"batch_cancelled"}
        assert vendors.jobs.executions == Counter(a=1, b=1)
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)

    def test_jobs_are_listed_newest_first_in_pages(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.page_size = 2
        made = [self.created(client, custom_id).id for custom_id in "abc"]
        assert [batch.id for batch in client.batches.list()] == made[::-1]
        assert vendors.count("/batches/list", kind="batches") == 2
        assert next(batch.metadata for batch in client.batches.list(limit=1)) == {"consensus": "c"}

    def test_an_expired_job(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.faults.append(JobFault(expires=True))
        batch = client.batches.retrieve(self.created(client, "a", "b").id)
        good, bad = self.results(client, batch)
        assert (batch.status, list(good), bad["b"]["error"]["code"]) == ("expired", ["a"], "batch_expired")
        assert client.batches.retrieve(self.created(client, "c").id).status == "completed", "one fault, one job"

    def test_lost_doubled_and_unknown_lines(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.always = JobFault(lost=1, doubled=1, unknown=1)
        batch = client.batches.retrieve(self.created(client, *"abc").id)
        assert sorted(line["custom_id"] for line in self.read(client, batch.output_file_id)) == [
            "b",
            "b",
            "c",
            "unknown-b",
        ]
        assert vendors.jobs.executions == Counter(a=1, b=1, c=1)

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_truncated_file(self, vendors: LoopbackVendors, client: openai.OpenAI, times: int) -> None:
        vendors.script("/batches/results", *[faults.end_early()] * times)
        batch = client.batches.retrieve(self.created(client, *"abc").id)
        for _ in range(times):
            with pytest.raises(json.JSONDecodeError):
                self.read(client, batch.output_file_id)
        assert len(self.read(client, batch.output_file_id)) == 3

    def test_completed_before_there_is_a_file(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.faults.append(JobFault(late=2))
        batch = self.created(client, "a")
        looks = [client.batches.retrieve(batch.id) for _ in range(3)]
        assert [look.status for look in looks] == ["completed"] * 3
        assert [look.output_file_id is None for look in looks] == [True, True, False]

    def test_a_job_that_fails_whole(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.faults.append(JobFault(fails="token_limit_exceeded"))
        batch = client.batches.retrieve(self.created(client, "a").id)
        assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
        assert batch.errors is not None and batch.errors.data is not None
        assert [error.code for error in batch.errors.data] == ["token_limit_exceeded"]
        assert not vendors.jobs.executions

    @pytest.mark.parametrize(
        ("custom_ids", "more", "code"),
        [
            ("aa", {}, "duplicate_custom_id"),
            ("a", {"url": "/v1/responses"}, "mismatched_endpoint"),
            ("a", {"custom_id": ""}, "missing_custom_id"),
            ("a", {"body": None}, "invalid_json_line"),
        ],
    )
    def test_an_input_file_is_validated(
        self, vendors: LoopbackVendors, client: openai.OpenAI, custom_ids: str, more: dict[str, Any], code: str
    ) -> None:
        content = self.lines("z") + self.lines(*custom_ids, **more)
        batch = client.batches.retrieve(self.created(client, content=content).id)
        assert batch.errors is not None and batch.errors.data is not None
        assert [(error.code, error.line) for error in batch.errors.data] == [(code, len(custom_ids) + 1)]

    def test_a_full_queue(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.jobs.hold, vendors.jobs.capacity = True, 3
        self.created(client, "a", "b")
        with pytest.raises(openai.RateLimitError) as refused:
            self.created(client, "c", "d")
        assert refused.value.code == "token_limit_exceeded"
        vendors.jobs.finish()
        assert self.created(client, "c", "d").status == "validating"
        vendors.jobs.hold, vendors.jobs.refuses_late = False, True
        late = client.batches.retrieve(self.created(client, *"efgh").id)
        assert late.errors is not None and late.errors.data is not None
        assert (late.status, late.errors.data[0].code) == ("failed", "token_limit_exceeded")

    def test_a_refused_create_makes_no_job(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.script("/batches/create", faults.rate_limit(), faults.insufficient_quota(), faults.not_taken())
        for refusal in (openai.RateLimitError, openai.RateLimitError, openai.APIConnectionError):
            with pytest.raises(refusal):
                self.created(client, "a")
        assert list(client.batches.list()) == []
        assert self.created(client, "a").id

    def test_a_create_whose_reply_is_cut_makes_a_job(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.script("/batches/create", faults.close_before())
        with pytest.raises(openai.APIConnectionError):
            self.created(client, "a")
        assert [batch.metadata for batch in client.batches.list()] == [{"consensus": "a"}]
        assert vendors.jobs.executions == Counter(a=1)

    def test_results_fail_once(self, vendors: LoopbackVendors, client: openai.OpenAI) -> None:
        vendors.script("/batches/results", faults.server_error(), faults.cut_mid_body())
        batch = client.batches.retrieve(self.created(client, "a").id)
        with pytest.raises(openai.InternalServerError):
            self.results(client, batch)
        with pytest.raises(openai.APIConnectionError):
            self.results(client, batch)
        assert list(self.results(client, batch)[0]) == ["a"]


class TestAnthropic:
    @pytest.fixture(scope="class")
    def client(self, server: LoopbackVendors) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=server.anthropic_url, api_key="sk-ant-test", max_retries=0)

    @staticmethod
    def created(client: anthropic.Anthropic, *custom_ids: str) -> MessageBatch:
        return client.messages.batches.create(
            requests=[
                {
                    "custom_id": custom_id,
                    "params": {
                        "model": HAIKU,
                        "max_tokens": 100,
                        "messages": [{"role": "user", "content": f"Question {custom_id}"}],
                    },
                }
                for custom_id in custom_ids
            ]
        )

    @staticmethod
    def results(client: anthropic.Anthropic, batch: MessageBatch) -> dict[str, Any]:
        return {line.custom_id: line.result for line in client.messages.batches.results(batch.id)}

    def test_a_job_from_requests_to_answers(self, vendors: LoopbackVendors, client: anthropic.Anthropic) -> None:
        vendors.script(HAIKU, Reply(text="18"), faults.overloaded())
        new = self.created(client, "a", "b", "c")
        assert (new.processing_status, new.results_url, new.request_counts.processing) == ("in_progress", None, 3)
        assert abs(new.created_at.timestamp() - time.time()) < 5
        done = client.messages.batches.retrieve(new.id)
        counts = done.request_counts
        assert (done.processing_status, counts.succeeded, counts.errored, counts.processing) == ("ended", 2, 1, 0)
        results = self.results(client, done)
        assert list(results) == ["c", "b", "a"], "results come in another order"
        assert (results["a"].type, results["a"].message.content[0].text) == ("succeeded", "18")
        assert results["a"].message.usage.service_tier == "batch"
        assert (results["b"].type, results["b"].error.error.type) == ("errored", "overloaded_error")
        assert {seen.batch for seen in vendors.seen if seen.kind == "chat"} == {new.id}
        assert vendors.count(HAIKU) == vendors.jobs.executions.total() == 3

    def test_a_cancelled_job_keeps_what_was_done(self, vendors: LoopbackVendors, client: anthropic.Anthropic) -> None:
        vendors.jobs.hold = True
        batch = client.messages.batches.cancel(self.created(client, *"abcd").id)
        assert (batch.processing_status, batch.cancel_initiated_at is None) == ("canceling", False)
        kinds = {custom_id: result.type for custom_id, result in self.results(client, batch).items()}
        assert kinds == {"a": "succeeded", "b": "succeeded", "c": "canceled", "d": "canceled"}
        assert vendors.jobs.executions == Counter(a=1, b=1)
        with pytest.raises(anthropic.BadRequestError):
            client.messages.batches.cancel(batch.id)

    def test_jobs_are_listed_newest_first_in_pages(self, vendors: LoopbackVendors, client: anthropic.Anthropic) -> None:
        vendors.jobs.page_size = 2
        made = [self.created(client, custom_id).id for custom_id in "abc"]
        assert [batch.id for batch in client.messages.batches.list()] == made[::-1]
        assert vendors.count("/batches/list", kind="batches") == 2

    def test_what_goes_wrong_with_a_job(self, vendors: LoopbackVendors, client: anthropic.Anthropic) -> None:
        vendors.jobs.faults += [
            JobFault(expires=True),
            JobFault(lost=1, doubled=1, unknown=1),
            JobFault(late=1),
            JobFault(fails="invalid_request_error"),
        ]
        kinds = {name: result.type for name, result in self.results(client, self.created(client, "a", "b")).items()}
        assert kinds == {"a": "succeeded", "b": "expired"}
        lines = [line.custom_id for line in client.messages.batches.results(self.created(client, *"abc").id)]
        assert sorted(lines) == ["b", "b", "c", "unknown-b"]
        late = self.created(client, "a")
        looks = [client.messages.batches.retrieve(late.id) for _ in range(2)]
        assert [(look.processing_status, look.results_url is None) for look in looks] == [
            ("ended", True),
            ("ended", False),
        ]
        assert self.results(client, self.created(client, "z"))["z"].type == "errored"
        assert vendors.jobs.executions == Counter(a=3, b=1, c=1)

    def test_what_goes_wrong_with_a_request(self, vendors: LoopbackVendors, client: anthropic.Anthropic) -> None:
        vendors.script("/batches/create", faults.overloaded(), faults.not_taken(), faults.close_before())
        for refusal in (anthropic.InternalServerError, anthropic.APIConnectionError, anthropic.APIConnectionError):
            with pytest.raises(refusal):
                self.created(client, "a", "b")
        (batch,) = client.messages.batches.list()
        vendors.script("/batches/results", faults.server_error(), faults.end_early())
        with pytest.raises(anthropic.InternalServerError):
            self.results(client, batch)
        with pytest.raises(json.JSONDecodeError):
            self.results(client, batch)
        assert set(self.results(client, batch)) == {"a", "b"}
        assert vendors.jobs.executions == Counter(a=1, b=1)

    def test_a_full_queue_and_wrong_ids(self, vendors: LoopbackVendors, client: anthropic.Anthropic) -> None:
        vendors.jobs.capacity = 1
        with pytest.raises(anthropic.RateLimitError):
            self.created(client, "a", "b")
        for wrong in (["a", "a"], ["a b"], ["a" * 65], []):
            with pytest.raises(anthropic.BadRequestError):
                self.created(client, *wrong)


class TestGoogle:
    @pytest.fixture(scope="class")
    def client(self, server: LoopbackVendors) -> genai.Client:
        return genai.Client(api_key="test-google", http_options=types.HttpOptions(base_url=server.google_url))

    @staticmethod
    def created(client: genai.Client, *keys: str) -> types.BatchJob:
        requests = [
            types.InlinedRequest(
                contents=[types.Content(role="user", parts=[types.Part(text=f"Question {key}")])],
                metadata={"key": key},
                config=types.GenerateContentConfig(max_output_tokens=100, system_instruction="Be brief."),
            )
            for key in keys
        ]
        return client.batches.create(
            model=FLASH, src=requests, config=types.CreateBatchJobConfig(display_name="".join(keys))
        )

    @staticmethod
    def got(client: genai.Client, job: types.BatchJob) -> types.BatchJob:
        return client.batches.get(name=job.name or "")

    @staticmethod
    def results(job: types.BatchJob) -> list[tuple[str, types.InlinedResponse]]:
        assert job.dest is not None
        return [((line.metadata or {})["key"], line) for line in job.dest.inlined_responses or []]

    def test_a_job_of_inlined_requests(self, vendors: LoopbackVendors, client: genai.Client) -> None:
        vendors.script(FLASH, Reply(text="18"), faults.server_error(), faults.rate_limit())
        new = self.created(client, "a", "b", "c")
        assert (new.state, new.display_name, new.model, new.dest) == (
            types.JobState.JOB_STATE_PENDING,
            "abc",
            f"models/{FLASH}",
            None,
        )
        assert new.create_time is not None and abs(new.create_time.timestamp() - time.time()) < 5
        done = self.got(client, new)
        assert (done.state, done.done) == (types.JobState.JOB_STATE_SUCCEEDED, True)
        lines = dict(self.results(done))
        assert list(lines) == ["c", "b", "a"], "results come in another order"
        assert lines["a"].response is not None and lines["a"].response.text == "18"
        assert [error and error.code for error in (lines["b"].error, lines["c"].error)] == [13, 8]
        seen = next(seen for seen in vendors.seen if seen.kind == "chat")
        assert (seen.batch, seen.system, seen.prompt) == (new.name, "Be brief.", "Question a")
        assert vendors.jobs.executions == Counter(a=1, b=1, c=1)

    def test_a_job_of_a_file(self, vendors: LoopbackVendors, client: genai.Client) -> None:
        vendors.script(FLASH, Reply(text="18"), faults.server_error())
        asked = [{"key": key, "request": {"contents": [{"role": "user", "parts": [{"text": key}]}]}} for key in "ab"]
        file = client.files.upload(
            file=io.BytesIO("".join(json.dumps(line) + "\n" for line in asked).encode()),
            config=types.UploadFileConfig(mime_type="application/jsonl"),
        )
        done = self.got(client, client.batches.create(model=FLASH, src=file.name or ""))
        assert done.dest is not None and done.dest.file_name is not None
        lines = [json.loads(line) for line in client.files.download(file=done.dest.file_name).splitlines()]
        assert [(line["key"], "response" in line, "error" in line) for line in lines] == [
            ("b", False, True),
            ("a", True, False),
        ]

    def test_a_cancelled_job_keeps_what_was_done(self, vendors: LoopbackVendors, client: genai.Client) -> None:
        vendors.jobs.hold, vendors.jobs.cancel_delay = True, 0.1
        job = self.created(client, *"abcd")
        client.batches.cancel(name=job.name or "")
        assert self.got(client, job).state == types.JobState.JOB_STATE_RUNNING
        time.sleep(0.1)
        job = self.got(client, job)
        assert job.state == types.JobState.JOB_STATE_CANCELLED
        assert {key for key, _ in self.results(job)} == {"a", "b"}
        with pytest.raises(ClientError):
            client.batches.cancel(name=job.name or "")

    def test_jobs_are_listed_newest_first_in_pages(self, vendors: LoopbackVendors, client: genai.Client) -> None:
        vendors.jobs.page_size = 2
        for key in "abc":
            self.created(client, key)
        assert [job.display_name for job in client.batches.list()] == ["c", "b", "a"]
        assert vendors.count("/batches/list", kind="batches") == 2

    def test_what_goes_wrong_with_a_job(self, vendors: LoopbackVendors, client: genai.Client) -> None:
        vendors.jobs.faults += [
            JobFault(expires=True),
            JobFault(fails="INTERNAL"),
            JobFault(partial=True),
            JobFault(lost=1, doubled=1, unknown=1),
            JobFault(late=1),
        ]
        expired, failed, partial = (self.got(client, self.created(client, "a", "b")) for _ in range(3))
        assert (expired.state, expired.dest) == (types.JobState.JOB_STATE_EXPIRED, None)
        assert (failed.state, failed.dest) == (types.JobState.JOB_STATE_FAILED, None)
        assert partial.state == types.JobState.JOB_STATE_PARTIALLY_SUCCEEDED
        assert vendors.jobs.executions == Counter(a=2, b=1)
        lines = self.results(self.got(client, self.created(client, *"abc")))
        assert sorted(key for key, _ in lines) == ["b", "b", "c", "unknown-b"]
        late = self.created(client, "a")
        assert [self.got(client, late).dest is None for _ in range(2)] == [True, False]

    def test_what_goes_wrong_with_a_request(self, vendors: LoopbackVendors, client: genai.Client) -> None:
        vendors.script("/batches/create", faults.overloaded(), faults.not_taken(), faults.close_before())
        for refusal in (ServerError, httpx2.TransportError, httpx2.TransportError):
            with pytest.raises(refusal):
                self.created(client, "a")
        assert [job.display_name for job in client.batches.list()] == ["a"]
        vendors.jobs.capacity = 1
        with pytest.raises(ClientError) as refused:
            self.created(client, "a", "b")
        assert refused.value.code == 429
        assert vendors.jobs.executions == Counter(a=1)


def test_the_jobs_are_in_the_summary(vendors: LoopbackVendors) -> None:
    client = openai.OpenAI(base_url=vendors.openai_url, api_key="sk-test", max_retries=0)
    vendors.jobs.hold = True
    batch = TestOpenAI().created(client, "a", "b")
    with urllib.request.urlopen(f"{vendors.url}/_seen") as answer:
        seen = json.load(answer)
    assert [(job["id"], job["model"], job["lines"], job["executed"], job["state"]) for job in seen["jobs"]] == [
        (batch.id, LUNA, 2, 1, "in_progress")
    ]
    assert seen["executions"] == {"a": 1}
    assert seen["count"] == 1
