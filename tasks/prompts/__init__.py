"""The prompts, as text files that a person edits.

`@{name}` in a file stands for the file of that name, so that what several prompts say is written once. `$word` stands for
a value. A paragraph whose values are all empty is left out.
"""

import re
from functools import cache
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent


@cache
def prompt(name: str) -> str:
    """Return the text of the prompt file `name`, with the files that it includes."""
    text = (_FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()
    return re.sub(r"@\{(\w+)\}", lambda found: prompt(found[1]), text)


def fill(name: str, **values: object) -> str:
    """Return the prompt file `name` with each `$word` in it replaced by the value of that name."""
    texts = {key: str(value) for key, value in values.items()}
    paragraphs = [Template(paragraph) for paragraph in prompt(name).split("\n\n")]
    kept = [one for one in paragraphs if not (words := one.get_identifiers()) or any(texts[word] for word in words)]
    return "\n\n".join(one.substitute(texts) for one in kept)
