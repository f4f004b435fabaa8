"""`consensus demo`: three instances of the small model that comes along vote. No key, no network."""

from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.deployments.algorithm_commands import ask
from consensus_flows.deployments.local_model import install_local_model
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, say
from consensus_flows.flows.algorithms import algorithm

QUESTION = "What is the capital of France?"
MODEL = "local/smollm2"


def demo(prompt: str = QUESTION, *, out: TurnOptions | None = None) -> Exit:
    """Show why a panel is worth it: ask three instances of a small local model, and count their answers.

    Args:
        prompt: The question.
        out: What is printed and written.
    """
    install_local_model()
    # Not a consortium: a model this small answers, but cannot judge.
    config = VoteConfig(
        members=[f"{MODEL}:3"],
        system="Answer in one short sentence.",
        sampling=Sampling(temperature=0.7, max_output_tokens=96, seed=1),
    )
    out = out or TurnOptions()
    if not out.json and not out.raw:
        say(f"Question: {prompt}")
    return ask(algorithm("vote"), prompt, config, out)
