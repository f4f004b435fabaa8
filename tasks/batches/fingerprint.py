"""What a reading of an input came to, so that a later one can be compared with it."""

import hashlib
import json

from consensus_flows.tasks.batches.row import BadRow, Inventory, Row


class Fingerprint:
    """Counts the rows of one reading, and digests those that can be used."""

    def __init__(self) -> None:
        self.rows = 0
        self.bad_rows = 0
        self._digest = hashlib.sha256()

    def add(self, row: Row | BadRow) -> None:
        """Take note of the next row."""
        if isinstance(row, BadRow):
            self.bad_rows += 1
            return
        self.rows += 1
        self._digest.update(json.dumps([row.id, row.prompt, row.columns]).encode() + b"\n")

    def sha256(self) -> str:
        """Return the digest of the rows so far: of the id, the prompt and the own columns of each, in order."""
        return self._digest.hexdigest()

    def is_of(self, inventory: Inventory) -> bool:
        """Tell whether this reading and the one of an inventory have found the same."""
        return (self.rows, self.bad_rows, self.sha256()) == (inventory.rows, inventory.bad_rows, inventory.sha256)

    def against(self, inventory: Inventory) -> str:
        """Say how many rows there are now and how many an inventory has found; nothing where these are the same."""
        if (self.rows, self.bad_rows) == (inventory.rows, inventory.bad_rows):
            return ""
        some = self.bad_rows or inventory.bad_rows
        bad = f", and {self.bad_rows} bad ones instead of {inventory.bad_rows}" if some else ""
        return f"it has {self.rows} rows instead of {inventory.rows}{bad}"


def input_changed(address: str, how: str = "") -> str:
    """Say that an input is no longer what was inspected, and what to do."""
    return (
        f"input: {address} has changed while the batch was going on{f': {how}' if how else ''}. What is finished is kept: once "
        "nobody writes to the input any more, the same command does what is missing or has changed"
    )
