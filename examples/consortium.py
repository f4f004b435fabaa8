"""# A consortium from Python

Three instances of the small local model answer, and the same model makes one answer of theirs. Put your own models in:
`openai/gpt-6-luna`, `anthropic/claude-haiku-4-5:2`, `openrouter/deepseek/deepseek-r1:free`.

Run it with `.venv/bin/python examples/consortium.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio

from consensus_flows import ConsortiumConfig, ask, connect, consortium

# ## Who is asked, who judges, and when to stop
#
# The settings are a pydantic model: a mistake is an error here, before anything is called.

config = ConsortiumConfig(
    members=["local/smollm2:3"],
    arbiter="local/smollm2",
    max_iterations=2,
    system="Answer in one short sentence.",
    sampling={"temperature": 0.7, "max_output_tokens": 96, "seed": 1},
    arbiter_settings={"temperature": 0.0, "max_output_tokens": 700, "seed": 1},
)


async def main() -> None:
    """Ask two questions at once: a flow is an async function."""
    # ## From asynchronous code
    records = await asyncio.gather(
        consortium("What is the capital of Italy?", config),
        consortium("What is the capital of Japan?", config),
    )
    for record in records:
        print(f"{record.prompt} -> {record.answer}")


if __name__ == "__main__":
    connect()

    # ## From synchronous code
    #
    # The record is the same in both cases: the answer, and everything that led to it.
    record = ask("What is the capital of France?", config)
    print(record.answer)
    for response in record.iterations[0].responses:
        print(f"  {response.member}: {response.text}")
    print(
        f"confidence {record.confidence}, agreement {record.agreement}, {record.cached_calls} of {record.calls} cached"
    )

    asyncio.run(main())
