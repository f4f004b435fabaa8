"""`consensus demo`: a consortium of three instances of the small model that comes along. No key, no network."""

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.deployments.algorithm_commands import ask
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, say
from consensus_flows.flows.algorithms import MAIN, algorithm

QUESTION = "What is the capital of France?"
MODEL = "local/smollm2"


def demo(prompt: str = QUESTION, *, out: TurnOptions | None = None) -> Exit:
    """Ask three instances of the small local model one question; a fourth call makes one answer of theirs.

    Args:
        prompt: The question.
        out: What is printed and written.
    """
    config = ConsortiumConfig(
        members=[f"{MODEL}:3"],
        arbiter=MODEL,
        comparison=False,  # for a model this small, a list of made-up contradictions
        max_iterations=2,
        system="Answer in one short sentence.",
        sampling=Sampling(temperature=0.7, max_output_tokens=96, seed=1),
        arbiter_settings=Sampling(temperature=0.0, max_output_tokens=700, seed=1),
    )
    out = out or TurnOptions()
    if not out.json and not out.raw:
        say(f"Question: {prompt}")
    return ask(algorithm(MAIN), prompt, config, out)
