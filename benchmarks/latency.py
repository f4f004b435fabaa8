"""One question, three members and an arbiter that take 200 ms each: what the flow adds to the critical path.

Baselines, in the same run: the same four calls by bare asyncio and the openai SDK, nothing else, and by a flow of Prefect whose calls
are cached tasks, with nothing of ours. Then the whole process from the shell, beside a process that only imports Prefect and the SDK.
"""

import asyncio
import statistics
import subprocess
import sys
import time

from common import ROOT, Targets, prefect_server, requests_seen, vendors

DELAY = 0.2
ROUNDS = 10
MEMBERS = ("a", "b", "c")


async def bare(number: int) -> float:
    """Time the four calls without Prefect."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(max_retries=0)

    async def ask(model: str) -> None:
        await client.chat.completions.create(model=model, messages=[{"role": "user", "content": f"bare {number}"}])

    await ask("warm-up")
    started = time.perf_counter()
    await asyncio.gather(*(ask(model) for model in MEMBERS))
    await ask("judge")
    took = time.perf_counter() - started
    await client.close()
    return took


async def plain() -> list[float]:
    """Time a flow of Prefect alone, round after round in one process."""
    from openai import AsyncOpenAI
    from prefect import flow, task
    from prefect.cache_policies import INPUTS

    client = AsyncOpenAI(max_retries=0)

    @task(cache_policy=INPUTS, retries=4, persist_result=True, result_serializer="json")
    async def ask(model: str, prompt: str) -> str:
        done = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
        return done.choices[0].message.content or ""

    @flow
    async def question(prompt: str) -> None:
        await asyncio.gather(*(ask(model, prompt) for model in MEMBERS))
        await ask("judge", prompt)

    times = []
    async with client:
        for number in range(ROUNDS + 1):
            started = time.perf_counter()
            await question(f"plain {number}")
            times.append(time.perf_counter() - started)
    return times[1:]


async def flows(name: str) -> list[float]:
    """Time the flow, round after round in one process."""
    from consensus_flows.blocks.consortium import ConsortiumConfig
    from consensus_flows.flows.consortium import consortium

    config = ConsortiumConfig(
        members=[f"openai/{model}" for model in MEMBERS], arbiter="openai/judge", max_iterations=1
    )
    times = []
    for number in range(ROUNDS + 1):
        started = time.perf_counter()
        await consortium(f"{name} {number}", config)
        times.append(time.perf_counter() - started)
    return times[1:]


def shell(*arguments: str) -> float:
    """Time a whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def command(prompt: str) -> float:
    """Time the command from the shell."""
    options = [part for model in MEMBERS for part in ("-m", f"openai/{model}")]
    return shell(
        "-m",
        "consensus_flows.deployments.cli",
        prompt,
        *options,
        "--arbiter",
        "openai/judge",
        "--max-iterations",
        "1",
        "--raw",
    )


def main() -> bool:
    """Print the figures; tells whether no target is missed."""
    targets = Targets()
    with vendors(DELAY) as url, prefect_server(url):
        alone = [asyncio.run(bare(number)) for number in range(ROUNDS)]
        tasks, warm = asyncio.run(plain()), asyncio.run(flows("flow"))
        base, prefect, flow = map(statistics.median, (alone, tasks, warm))
        print(f"bare asyncio and SDK            {base:.3f} s  (critical path {2 * DELAY:.1f} s)")
        print(f"flow of Prefect alone, warm     {prefect:.3f} s, {prefect - 2 * DELAY:.3f} s over the critical path")
        print(
            f"consortium flow, warm process   {flow:.3f} s  = {flow / base:.2f} x, {flow - 2 * DELAY:.3f} s over the critical path"
        )
        targets.ratio("the time of bare asyncio, of that of the flow", [base / one for one in warm], 0.8)
        targets.figure("seconds over the critical path", [one - 2 * DELAY for one in warm], 0.1)
        imports = statistics.median(shell("-c", "import prefect, openai") for _ in range(5))
        whole = statistics.median(command(f"shell {number}") for number in range(5))
        print(f"process that only imports       {imports:.3f} s")
        print(f"consensus from the shell        {whole:.3f} s  = {whole / imports:.2f} x")
        before = requests_seen(url)
        again = command("shell 0")
        print(f"the same question again         {again:.3f} s, {requests_seen(url) - before} requests sent")
    return targets.met


if __name__ == "__main__":
    sys.exit(not main())
