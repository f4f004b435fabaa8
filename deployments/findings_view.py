"""What was measured on the terminal: a sentence, the figures, the table, and what else is worth knowing."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from consensus_flows.deployments.terminal import put
from consensus_flows.tasks.reports.findings import Findings


def show(found: Findings) -> None:
    """Print what was measured."""
    console = Console()
    put(f"{found.sentence.removesuffix('.')}.\n")
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, text in found.facts:
        facts.add_row(Text(name, style="dim"), Text(text))
    console.print(facts)
    put("")
    if found.rows:
        table = Table(box=None, header_style="dim", pad_edge=False)
        for at, name in enumerate(found.header):
            table.add_column(name, justify="right" if at else "left", overflow="fold")
        for row in found.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        put("")
    for text in found.more:
        put(text)
