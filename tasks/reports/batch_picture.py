"""A histogram of agreement as a picture: plain SVG, drawn without a library."""

from collections.abc import Sequence

WIDTH, HEIGHT = 640, 320
_LEFT, _TOP, _BOTTOM = 20, 56, 44
_BLUE = "#4477aa"


def histogram(counts: Sequence[int]) -> str:
    """Draw how many rows have which agreement.

    Args:
        counts: For each of equal parts of 0 to 1, how many.

    Returns:
        An SVG document.
    """
    total, most = sum(counts), max([1, *counts])
    step = (WIDTH - 2 * _LEFT) / len(counts)
    room = HEIGHT - _TOP - _BOTTOM - 16
    parts = [
        f'<text x="{_LEFT}" y="30" font-size="18" font-weight="bold">Agreement between the members, {total} rows</text>'
    ]
    for number, count in enumerate(counts):
        x, height = _LEFT + number * step, count / most * room
        y = HEIGHT - _BOTTOM - height
        low = number / len(counts)
        middle = x + step / 2
        parts.append(f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{step - 4:.1f}" height="{height:.1f}" fill="{_BLUE}"/>')
        if count:
            parts.append(f'<text x="{middle:.1f}" y="{y - 5:.1f}" font-size="12" text-anchor="middle">{count}</text>')
        label = f"{low:.1f}"
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" font-size="12" text-anchor="middle">{label}</text>'
        )
    end, floor = WIDTH - _LEFT, HEIGHT - _BOTTOM
    parts += [
        f'<text x="{end}" y="{floor + 18}" font-size="12" text-anchor="middle">1.0</text>',
        f'<line x1="{_LEFT}" y1="{floor}" x2="{end}" y2="{floor}" stroke="#555555"/>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
