"""What the chaos tests have measured, printed at the end as lines of JSON that docs/reliability.md quotes."""

import json
from typing import Any

LINES: list[str] = []


def tell(name: str, **found: Any) -> None:
    """Keep the figures of a test."""
    LINES.append(json.dumps({"figures": name, **found}, ensure_ascii=False))
