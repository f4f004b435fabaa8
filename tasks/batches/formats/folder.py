"""A folder of files with a prompt each."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from consensus_flows.tasks.batches.limits import MAX_PROMPT_CHARACTERS
from consensus_flows.tasks.batches.row import Broken, Item

ENDINGS = (".md", ".txt")


def read_folder(fs: Any, path: str) -> Iterator[Item | Broken | list[str]]:
    """Yield the names of the columns, then a row for each file *.md and *.txt of the folder, sorted by name.

    Args:
        fs: The file system.
        path: The folder in it.
    """
    found = [one for one in fs.ls(path, detail=True) if one["type"] == "file"]
    files = {PurePosixPath(one["name"]).name: one for one in found}
    wanted = sorted(name for name in files if name.lower().endswith(ENDINGS))
    if wanted:
        yield ["file", "prompt"]
    for number, name in enumerate(wanted, 1):
        one = files[name]
        # Four bytes a character at most, so that a file above is too large whatever is in it.
        if (one.get("size") or 0) > 4 * MAX_PROMPT_CHARACTERS:
            yield Broken(number, f"the prompt is longer than {MAX_PROMPT_CHARACTERS:,} characters", name)
            continue
        try:
            text = fs.cat_file(one["name"]).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield Broken(number, f"wrong encoding: byte 0x{error.object[error.start]:02x} is no UTF-8", name)
        except OSError as error:
            yield Broken(number, f"it cannot be read: {error.strerror or error}", name)
        else:
            yield Item(number, {"file": name, "prompt": text}, name=PurePosixPath(name).stem)
