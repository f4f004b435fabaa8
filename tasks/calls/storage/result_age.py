"""Deletes stored answers by their age."""

import time
from dataclasses import dataclass
from pathlib import Path

PATTERN = "answer-*"
"""Names that `cache_key` gives to stored answers, and those that were moved aside."""


@dataclass(frozen=True)
class Files:
    """Some stored answers.

    Attributes:
        number: How many.
        size: Their bytes in all.
    """

    number: int = 0
    size: int = 0


def old_answers(folder: Path, seconds: float, *, delete: bool) -> Files:
    """Find, or delete, the stored answers in a folder that were written longer ago.

    What else is in the folder, results of flows for example, is left alone.

    Args:
        folder: The result folder.
        seconds: How long ago.
        delete: Whether to delete them.
    """
    before = time.time() - seconds
    number = size = 0
    for path in sorted(folder.glob(PATTERN)):
        try:
            found = path.lstat()
            if found.st_mtime >= before or not path.is_file() or path.is_symlink():
                continue
            if delete:
                path.unlink()
        except FileNotFoundError:  # another one was faster
            continue
        number, size = number + 1, size + found.st_size
    return Files(number, size)
