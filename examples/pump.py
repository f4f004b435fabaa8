"""# One question to many models

Three instances of the small local model answer at once. Put your own models in: `openai/gpt-6-luna`,
`anthropic/claude-haiku-4-5`, `openrouter/deepseek/deepseek-r1:free`.

Run it with `.venv/bin/python examples/pump.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio

from consensus_flows import PumpConfig, connect, pump

config = PumpConfig(
    members=["local/smollm2:3"],
    system="Answer in one short sentence.",
    sampling={"temperature": 0.7, "max_output_tokens": 96, "seed": 1},
)


async def main() -> None:
    """Ask, and show who said what, how fast."""
    record = await pump("What is the capital of France?", config)

    # ## Every answer, and every failure
    #
    # A member that failed has an error and no answer; it never ends the run of the others.
    for response in record.iterations[0].responses:
        said = response.text if response.error is None else f"failed: {response.error.message}"
        print(f"{response.member} in {response.latency_s:.1f} s: {said}")
    print(f"all in {record.duration_s:.1f} s, agreement {record.agreement}")


if __name__ == "__main__":
    connect()
    asyncio.run(main())
