"""Notifications of scheduled batches, by Prefect's notification blocks and automations.

An automation and not the flow sends them, since the server outlives a run: it tells of runs that crashed or that no worker took.
"""

import os
import sys
from contextlib import suppress
from getpass import getpass
from typing import Any, Literal
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import PrefectClient
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import SendNotification
from pydantic import SecretStr

from consensus_flows.blocks.notification import AppriseAddress
from consensus_flows.deployments.terminal import Stop

Kind = Literal["slack", "email", "webhook"]
SAVED = "consensus"
"""The name under which the block of each kind is saved."""
BLOCKS: dict[Kind, Any] = {
    "slack": SlackWebhook,
    "email": AppriseAddress,
    "webhook": CustomWebhookNotificationBlock,
}
WANTED = {
    "slack": "Slack webhook URL (https://hooks.slack.com/services/...)",
    "email": "Mailbox as an Apprise address (mailtos://user:password@example.com?to=you@example.com)",
    "webhook": "Webhook URL, which gets JSON with `subject` and `text`",
}
SUBJECT = "{{ deployment.name }}: {{ flow_run.state.name }}"
BODY = """{{ flow_run.state.message or "" }}
Run: {ui}/runs/flow-run/{{ flow_run.id }}"""


def _block(kind: Kind, url: str) -> Any:
    if kind != "webhook":
        return BLOCKS[kind](url=SecretStr(url))
    return CustomWebhookNotificationBlock(
        name="consensus",
        url="{{address}}",
        json_data={"subject": "{{subject}}", "text": "{{body}}"},
        secrets={"address": url},  # so that the UI does not show it
    )


async def notification(kind: Kind, from_env: str | None, name: str) -> UUID:
    """Return the block that sends notifications of a kind, after a first message; the address is asked for if none is saved.

    Args:
        kind: Where they go.
        from_env: The variable that holds the address; None for the one that is saved.
        name: Of the schedule, for the first message.

    Raises:
        Stop: If there is no address, or nothing can be sent to it.
    """
    block: Any = None
    if from_env is None:
        with suppress(ValueError):  # Prefect's word for a block that is not there
            block = await BLOCKS[kind].aload(SAVED)
    if block is None:
        block = _block(kind, _read_address(kind, from_env))
    try:
        with block.raise_on_failure():
            await block.anotify(f"The outcome of each run of {name} is sent here.", f"{name} is scheduled")
    except Exception as error:  # of apprise, httpx, or whatever the service uses; its text may hold the address
        raise Stop(
            f"--notify {kind}: the first message could not be sent ({type(error).__name__}): check the address"
        ) from None
    return UUID(str(await block.save(SAVED, overwrite=True)))


def _read_address(kind: Kind, from_env: str | None) -> str:
    if from_env is not None:
        address = os.environ.get(from_env, "")
        if not address.strip():
            raise Stop(f"--notify-from-env {from_env}: this variable is not set")
    elif sys.stdin.isatty():
        address = getpass(f"{WANTED[kind]}: ", stream=sys.stderr)
    else:
        address = sys.stdin.readline()
    if not address.strip():
        raise Stop(f"--notify {kind}: no address is given. Wanted: {WANTED[kind]}")
    return address.strip()


async def notify_of(
    client: PrefectClient, name: str, deployment: UUID, block: UUID | None = None, ui_url: str = ""
) -> None:
    """Send the outcome of each run of a deployment, or no longer.

    Args:
        client: Of the server.
        name: Of the schedule.
        deployment: Whose runs these are.
        block: What sends it; None for no notifications.
        ui_url: Address of the UI, for the link to the run.
    """
    endings = f"Outcome of the schedule {name}", "prefect.flow-run.*", ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
    delays = f"Late runs of the schedule {name}", "prefect.flow-run.Late", ["SCHEDULED"]
    for title, expect, states in (endings, delays):
        for one in await client.read_automations_by_name(title):
            await client.delete_automation(one.id)
        if block is None:
            continue
        trigger = EventTrigger(
            expect={expect},
            match=ResourceSpecification(
                {
                    "prefect.resource.id": "prefect.flow-run.*",
                    "prefect.state-type": states,
                    # The shards of a batch are runs of its deployment, too.
                    "prefect.resource.name": "!*, part * of *",
                }
            ),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "deployment", "prefect.resource.id": f"prefect.deployment.{deployment}"}
            ),
            posture=Posture.Reactive,
            threshold=1,
        )
        await client.create_automation(
            AutomationCore(
                name=title,
                description="Made by `consensus schedule`.",
                trigger=trigger,
                actions=[SendNotification(block_document_id=block, subject=SUBJECT, body=BODY.replace("{ui}", ui_url))],
            )
        )
