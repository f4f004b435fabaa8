"""Ask from a script or a notebook, without `await`."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from os import PathLike, fspath

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.deployments.server import connect
from consensus_flows.flows.algorithms import algorithm_of
from consensus_flows.flows.run import attaching
from consensus_flows.tasks.calls.providers import close_clients
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.record import Attachment, Record


def ask(
    prompt: str,
    config: RunConfig,
    conversation: Sequence[Message] = (),
    attachments: Sequence[str | PathLike[str] | Attachment] = (),
) -> Record:
    """Run the flow of a configuration, and wait for its record. It works within a running event loop too, as in a notebook.

    The Prefect server is the one that is configured, the one that runs here, or a new one in the background.

    Args:
        prompt: The question.
        config: The configuration of any algorithm.
        conversation: Earlier turns.
        attachments: Images, PDFs and text files that the question is about: paths or URLs.

    Raises:
        ConfigurationError: Before any call, if something cannot be used.
        QuorumError: If there is no answer.
    """
    connect()

    async def run() -> Record:
        try:
            files = [one if isinstance(one, Attachment) else fspath(one) for one in attachments]
            turns = [*conversation, *await asyncio.to_thread(attaching, files)]
            record: Record = await algorithm_of(config).flow()(prompt, config, conversation=turns)
            return record
        finally:
            await close_clients()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, asyncio.run, run()).result()
