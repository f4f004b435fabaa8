"""Three vendors' HTTP APIs on one loopback port, for tests and benchmarks with the real SDKs.

Example:
    with LoopbackVendors() as vendors:
        vendors.script("gpt-6-luna", faults.rate_limit(retry_after=1), Reply(text="A"))
        client = openai.OpenAI(base_url=vendors.openai_url, api_key="k", max_retries=0)
"""

from __future__ import annotations

from . import faults
from .batch_jobs import JobFault
from .ledger import ANY, LISTING
from .openai_wire import embed
from .schema import example
from .script import Reply, Script, SeenRequest, Step, Usage, json_reply
from .server import LoopbackVendors

__all__ = [
    "ANY",
    "LISTING",
    "JobFault",
    "LoopbackVendors",
    "Reply",
    "Script",
    "SeenRequest",
    "Step",
    "Usage",
    "embed",
    "example",
    "faults",
    "json_reply",
]
