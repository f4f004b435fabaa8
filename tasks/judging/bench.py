"""What a model is sent that reads, compares or fuses answers: the instructions, the conversation and the question too."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.prompts import fill, prompt


@dataclass(frozen=True)
class Bench:
    """Who reads, compares or fuses, and what it knows of the question."""

    model: ModelName
    question: str
    system: str | None = None
    conversation: Sequence[Message] = ()
    sampling: Sampling = field(default_factory=Sampling)
    timeout: float = 120.0
    seed: str = "0"

    def request(self, name: str, schema: dict[str, JsonValue], read: str, label: str, **fields: object) -> Request:
        """Return a request of the prompt files `name` and `name`_system.

        Args:
            name: The prompt file; `fields`, the question and the instructions that the answers had fill it.
            schema: JSON schema of what is to be written.
            read: Name of the reader.
            label: What the call is called in the UI.
            fields: What else the prompt holds.
        """
        instructions = f"The answers had to follow these instructions:\n\n{self.system}\n\n" if self.system else ""
        text = fill(name, question=self.question, instructions=instructions, **fields)
        system = f"{name}_system"
        return Request(
            provider=self.model.provider,
            model=self.model.model,
            messages=(
                Message(role="system", content=prompt(system)),
                *self.conversation,
                Message(role="user", content=text),
            ),
            sampling=self.sampling,
            response_schema=schema,
            reader=read,
            label=label,
            timeout=self.timeout,
        )
