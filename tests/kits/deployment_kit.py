"""Deployments, run as a worker does."""

from typing import Any


async def run_deployment(deployment: dict[str, Any]) -> Any:
    """Run a deployment of prefect.yaml, with its own parameters but for the model, which answers over loopback; gives the state."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow_async
    from prefect.flows import load_flow_from_entrypoint

    own = deployment["parameters"]
    own = own | {"config": own["config"] | {"members": ["openai/one:3"]}}
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    async with get_client() as client:
        saved = await client.create_deployment(
            flow_id=await client.create_flow(flow), name=deployment["name"], parameters=own
        )
        made = await client.create_flow_run_from_deployment(saved)
        state = await run_flow_async(flow, flow_run=made, parameters=made.parameters, return_type="state")
        await client.delete_deployment(saved)
    return state
