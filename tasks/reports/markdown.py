"""Text for markdown pages: what models wrote can be read there, and stays data.

Nothing in it becomes a link, an image, HTML or a heading of ours, and nobody can write his way out of a quotation.
"""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from consensus_flows.tasks.plain_text import code_fence, visible

LIMIT = 20_000
"""Characters of a text that an artifact shows; the whole text is in the flow's result."""

_PARSER = (
    MarkdownIt("commonmark", {"html": False})
    .enable("table")
    .disable(["link", "image", "autolink", "html_inline", "html_block", "reference", "entity"])
)
"""Of markdown, what has no address: paragraphs, lists, quotations, tables, code, emphasis."""
_ACTIVE = re.compile(r"[\\`*_\[\]<>|~&@]|(?<=www)\.|:(?=//)|(?<=ftp)\.", re.IGNORECASE)
_AT_START = re.compile(r"[-+=#:]|(?<=\d)[.)]")


def quoted(text: str) -> str:
    """Return text word for word: fenced longer than any fence in it, so that nothing in it is rendered or hidden."""
    return _fenced(visible(_cut(text)))


def prose(text: str) -> str:
    """Return model text as a quotation that can be read: wrapped, with its lists, tables, code and emphasis.

    It is parsed and written anew, with all else that markdown or HTML would act on behind a backslash. Prefect's UI shows character
    references as they are written.
    """
    tree = SyntaxTreeNode(_PARSER.parse(visible(_cut(text))))
    return "\n".join(f"> {line}".rstrip() for line in _blocks(tree.children) or [""])


def cell(text: str) -> str:
    """Return text for a table cell, without what markdown or HTML would act on."""
    inert = re.sub(r"(?<=:)(?=//)|(?<=www)(?=\.)", " ", re.sub(r"[<>\[\]!`|]", " ", visible(text)), flags=re.IGNORECASE)
    return " ".join(inert.split())[:300]


def percent(value: float | None) -> str:
    """Return a share as per cent, or a dash."""
    return "-" if value is None else f"{value * 100:.0f} %"


def _cut(text: str) -> str:
    return text if len(text) <= LIMIT else f"{text[:LIMIT]}\n… ({len(text)} characters in all)"


def _fenced(text: str) -> str:
    fence = code_fence(text)
    return f"{fence}text\n{text}\n{fence}"


def _blocks(nodes: list[SyntaxTreeNode], *, apart: bool = True) -> list[str]:
    """Write blocks as lines, with an empty line between two of them unless they are items of a tight list."""
    lines: list[str] = []
    for node in nodes:
        if lines and apart:
            lines.append("")
        lines += _block(node)
    return lines


def _block(node: SyntaxTreeNode) -> list[str]:
    if node.type in {"paragraph", "heading"}:
        lines = _inline(node.children[0]).split("\n") if node.children else [""]
        return lines if node.type == "paragraph" else [f"#### {' '.join(lines)}"]
    if node.type in {"bullet_list", "ordered_list"}:
        return list(_items(node))
    if node.type == "blockquote":
        return [f"> {line}" for line in _blocks(node.children)] or [">"]
    if node.type == "table":
        return list(_rows(node))
    if node.type == "hr":
        return ["* * *"]
    return _fenced(node.content.rstrip("\n")).split("\n")


def _items(node: SyntaxTreeNode) -> Iterator[str]:
    number = int(node.attrs.get("start", 1))
    tight = all(child.hidden for item in node.children for child in item.children if child.type == "paragraph")
    for place, item in enumerate(node.children):
        mark = "- " if node.type == "bullet_list" else f"{number + place}. "
        if place and not tight:
            yield ""
        for at, line in enumerate(_blocks(item.children, apart=not tight) or [""]):
            yield ((mark if at == 0 else " " * len(mark)) + line).rstrip()


def _rows(node: SyntaxTreeNode) -> Iterator[str]:
    for part in node.children:
        for row in part.children:
            cells = [cell("".join(text.content for text in one.walk() if not text.children)) for one in row.children]
            yield f"| {' | '.join(cells)} |"
        if part.type == "thead":
            yield "|" + " --- |" * len(part.children[0].children)


def _inline(node: SyntaxTreeNode) -> str:
    written = "".join(map(_span, node.children))
    return "\n".join(_AT_START.sub(_escaped, line, count=1) if _starts(line) else line for line in written.split("\n"))


def _starts(line: str) -> bool:
    """Tell whether a line of a paragraph would begin something else."""
    return re.match(r"[-+=#:]|\d{1,9}[.)]", line) is not None


def _span(node: SyntaxTreeNode) -> str:
    if node.type == "code_inline":
        longest = max((len(run) for run in re.findall(r"`+", node.content)), default=0)
        fence, content = "`" * (longest + 1), node.content.replace("\n", " ")
        pad = " " if content[:1] in {"`", " "} or content[-1:] in {"`", " "} else ""
        return f"{fence}{pad}{content}{pad}{fence}"
    if node.type in {"strong", "em"}:
        mark = "**" if node.type == "strong" else "*"
        return mark + "".join(map(_span, node.children)) + mark
    if node.type == "softbreak":
        return "\n"
    if node.type == "hardbreak":
        return "\\\n"
    return _ACTIVE.sub(_escaped, node.content)


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}"
