"""The loopback vendors' batch APIs, seen through the vendors' own SDKs."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.vendors import JobFault, LoopbackVendors, Reply, faults
from tests.vendors import Usage as Counts

LUNA = "gpt-6-luna"


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
