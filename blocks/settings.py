"""Settings that a person fills in, the budget among them, and the block in which the settings of an algorithm are saved."""

from typing import Any

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, HttpUrl


def _for_form(schema: dict[str, Any], settings: type["Settings"]) -> None:
    """Tell Prefect's form where each field stands, and let one that may be empty be a plain field.

    The form would offer `None` as a second type of it. Prefect takes a null for every field that is not required. A group of
    settings that may be missing is JSON, because the form would want all that is required in it.
    """
    for position, name in enumerate(settings.in_order(), 1):
        field = schema["properties"][name]
        field["position"] = position
        kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
        if field.get("default", ...) is None and kinds:
            del field["anyOf"], field["default"]
            kinds = [{"type": "object"} if "$ref" in kind else kind for kind in kinds]
            field |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
            field.setdefault("title", name.replace("_", " ").title())


class Settings(BaseModel):
    """A group of settings. A form and the help of a command show its fields in the order in which they are declared."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_for_form)

    @classmethod
    def in_order(cls) -> list[str]:
        """The names of the fields as a form shows them."""
        return list(cls.model_fields)


class Budget(Settings):
    """Limits of a run. Each is checked before a call by reserving the call's worst case."""

    max_calls: int | None = Field(None, ge=1, description="Maximum number of requests, including retries.")
    max_tokens: int | None = Field(None, ge=1, description="Maximum number of input and output tokens.")
    max_cost_usd: float | None = Field(None, gt=0, description="Maximum cost in US dollars.")
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Deadline in seconds: no call starts afterwards, and calls in progress are canceled.",
    )


def saved_config(name: str, config: type[Settings]) -> type[Block]:
    """Make the type of block in which the configuration of an algorithm is saved.

    Args:
        name: The name that Prefect's UI shows. It also names the class, without spaces, and the slug, with dashes.
        config: The configuration's model.
    """
    class_name = name.title().replace(" ", "")
    return type(
        class_name,
        (Block,),
        {
            "__module__": config.__module__,
            "__qualname__": class_name,
            "__doc__": f"A saved configuration of the {name.lower()} flow.\n\nExample:\n    Load a saved configuration:\n"
            f'    ```python\n    from {config.__module__} import {class_name}\n\n    saved = {class_name}.load("BLOCK_NAME")\n    ```\n',
            "__annotations__": {"config": config},
            "_block_type_name": name,
            "_block_type_slug": name.lower().replace(" ", "-"),
            # The picture that `prefect.filesystems` uses: a configuration is a small document.
            "_logo_url": HttpUrl(
                "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/filesystem.png"
            ),
            "_documentation_url": HttpUrl("https://www.prefect.io/docs/latest/develop/blocks"),
            "config": Field(description="Settings of the run."),
        },
    )
