"""The models of the gateway: saved configurations, and a cheap companion of each for the titles that front ends ask for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.deployments.commands.settings.saved import Saved, saved_configurations
from consensus_flows.deployments.gateway.errors import GatewayError, invalid
from consensus_flows.deployments.options import overlaid
from consensus_flows.flows.algorithms import Algorithm, algorithm
from consensus_flows.flows.saved_algorithm import with_panels

TITLE = ":title"
"""The end of a companion's name."""


class Panel(NamedTuple):
    """Who answers a request.

    Attributes:
        algorithm: The algorithm.
        config: Its settings.
        in_conversation: Whether the run is a turn of a conversation; a title is none.
    """

    algorithm: Algorithm
    config: RunConfig
    in_conversation: bool = True


async def panel_of(
    model: str, settings: Mapping[str, Any], params: dict[str, str], title_model: str | None = None
) -> Panel:
    """Find who answers as `model`.

    Args:
        model: Name of a saved configuration, or of its companion.
        settings: Settings of the request, which lie over the saved ones.
        params: For the path of such a setting the parameter of the request that sets it.
        title_model: Who answers as any companion; by default the first model of the configuration.

    Raises:
        GatewayError: If there is no such model, or the settings do not fit it.
    """
    name = model.removesuffix(TITLE)
    found = await saved_configurations(name) if name else []
    if not found:
        known = model_names(await saved_configurations())
        raise GatewayError(
            404, f"model: nothing is saved as {model!r}.{did_you_mean(model, known)}", "model_not_found", param="model"
        )
    saved = found[0]
    if saved.fault:
        raise GatewayError(
            500, f"{name!r} can no longer be used, so save it again: {saved.fault}", "configuration_error"
        )
    one = algorithm(saved.kind)
    if name != model:
        config = one.config_class().model_validate(saved.values)
        first = title_model or str((await with_panels(config)).all_models()[0])
        values = {"members": [first], "budget": config.budget}
        return Panel(algorithm("pump"), _configured(PumpConfig, values, settings, params), in_conversation=False)
    return Panel(one, _configured(one.config_class(), saved.values, settings, params))


def _configured(
    config_class: type[RunConfig], saved: Mapping[str, Any], settings: Mapping[str, Any], params: dict[str, str]
) -> RunConfig:
    try:
        return config_class.model_validate(overlaid(config_class, settings, saved))
    except ValidationError as error:
        raise invalid(error, params) from None


def model_names(saved: list[Saved]) -> list[str]:
    """Return the names of all models: of every saved configuration its own and that of its companion."""
    return [name for one in saved if not one.fault for name in (one.name, one.name + TITLE)]
