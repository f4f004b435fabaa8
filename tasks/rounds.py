"""One round of any flow: every member is asked at once, each with its own conversation."""

from collections.abc import Sequence

from consensus_flows.blocks.member import Member
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.judging.hazards import marked
from consensus_flows.tasks.panel import gather_panel
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.record import Response


async def ask_members(
    members: Sequence[Member],
    conversations: Sequence[tuple[Message, ...]],
    config: RunConfig,
    call: Call,
    *,
    quorum: int,
    label: str,
) -> list[Response]:
    """Ask every member of `members` what stands in its conversation; the responses are in the same order.

    The prompt set of `config` is applied here, so that it holds in every flow: it is put around what is asked, and what it
    keeps apart from the answer is taken out of the responses' text. So is noted what in a text looks like an attack.

    Args:
        members: Who is asked.
        conversations: For each member the messages it is sent.
        config: Sampling settings, timeout and patience with stragglers.
        call: Makes the calls.
        quorum: How many answers are needed before stragglers may be cut.
        label: What the round is called in the UI, for example `iteration 1`.

    Raises:
        ConfigurationError: Before any call, if there is no such prompt set.
    """
    prompting = prompt_set(config.prompt_set)
    asked = []
    for member, messages in zip(members, conversations, strict=True):
        request = Request(
            provider=member.name.provider,
            model=member.name.model,
            messages=prompting.prompted(messages),
            sampling=config.settings_of(member),
            sample=member.instance - 1,
            label=f"{member.name} #{member.instance} · {label}",
            timeout=config.timeout_s(),
        )
        asked.append((request, member.instance, call(request, instance=member.instance)))
    responses = await gather_panel(asked, quorum, config.straggler_grace)
    return [marked(prompting.divided(response)) for response in responses]
