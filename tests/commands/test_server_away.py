"""A Prefect server that goes away is a sentence on the terminal, not a page of log with prompts in it."""

import logging

from consensus_flows.deployments.server_away import LOGGER, speak_plainly


def test_said_once_and_without_the_event():
    said: list[str] = []
    logger = logging.getLogger(LOGGER)
    before, raising = list(logger.handlers), logging.raiseExceptions
    logger.handlers.clear()  # a command that ran before may have put its own there
    try:
        speak_plainly(said.append)
        speak_plainly(said.append)
        for number in range(3):
            try:
                raise ConnectionError("refused")
            except ConnectionError:
                logging.getLogger(f"{LOGGER}.concurrency").exception(
                    "Service 'EventsWorker' failed to process item %r", f"secret prompt {number}"
                )
    finally:
        logger.handlers[:], logging.raiseExceptions = before, raising
    assert len(said) == 1 and "does not answer (ConnectionError)" in said[0] and "cached" in said[0]
    assert "prompt" not in said[0]
