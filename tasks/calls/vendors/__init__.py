"""The vendors: one file each. An installed package adds one by an entry point of the group `consensus_flows.vendors`.

How to write one is in docs/extending.md; examples/own_vendor is one.
"""

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from consensus_flows.tasks.calls.vendors.vendor import Vendor
from consensus_flows.tasks.errors import ConfigurationError

GROUP = "consensus_flows.vendors"


@cache
def all_vendors() -> dict[str, Vendor]:
    """Return every vendor by name: each module of this folder with a `VENDOR`, then those of installed packages.

    Raises:
        ConfigurationError: If an installed package's vendor cannot be loaded or takes a name that is taken.
    """
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found: dict[str, Vendor] = {module.VENDOR.name: module.VENDOR for module in modules if hasattr(module, "VENDOR")}
    for point in entry_points(group=GROUP):
        try:
            vendor = point.load()
        except Exception as error:
            raise ConfigurationError(
                f"the vendor {point.name!r} of {point.value!r} cannot be loaded: {error}"
            ) from None
        if not isinstance(vendor, Vendor):
            raise ConfigurationError(f"the vendor {point.name!r} of {point.value!r} is not a Vendor")
        taken = {name for one in found.values() for name in one.providers} & set(vendor.providers)
        if vendor.name in found or taken:
            raise ConfigurationError(f"the vendor {point.name!r} of {point.value!r} takes a name that is taken")
        found[vendor.name] = vendor
    return found
