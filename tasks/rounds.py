"""One round of any flow: every member is asked at once, each with its own conversation."""

from collections.abc import Sequence

from blocks.member import Member
from blocks.panel import RunConfig
from tasks.judge import Call
from tasks.panel import gather_panel
from tasks.record import Response
from tasks.request import Message, Request


async def ask_members(
    members: Sequence[Member],
    conversations: Sequence[tuple[Message, ...]],
    config: RunConfig,
    call: Call,
    *,
    quorum: int,
    label: str,
    prompt_version: str = "",
) -> list[Response]:
    """Ask every member of `members` what stands in its conversation; the responses are in the same order.

    Args:
        members: Who is asked.
        conversations: For each member the messages it is sent.
        config: Sampling settings, timeout and patience with stragglers.
        call: Makes the calls.
        quorum: How many answers are needed before stragglers may be cut.
        label: What the round is called in the UI, for example `iteration 1`.
        prompt_version: Version of the prompt files that went into the conversations.
    """
    asked = []
    for member, messages in zip(members, conversations, strict=True):
        request = Request(
            provider=member.name.provider,
            model=member.name.model,
            messages=messages,
            sampling=config.settings_of(member),
            sample=member.instance - 1,
            prompt_version=prompt_version,
            label=f"{member.name} #{member.instance} · {label}",
            timeout=config.timeout,
        )
        asked.append((request, member.instance, call(request, instance=member.instance)))
    return await gather_panel(asked, quorum, config.straggler_grace)
