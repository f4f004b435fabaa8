"""What is documented is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_links_lead_somewhere():
    broken = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link
        and "reference/" not in link  # made by `make docs`, which checks every link and anchor
        and not (page.parent / link).exists()
    ]
    assert not broken


def test_every_environment_variable_is_in_the_example():
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("blocks", "tasks", "flows", "deployments")
        for path in (ROOT / folder).rglob("*.py")
    )
    used = set(re.findall(r"\bCONSENSUS_[A-Z_]+", code))
    used |= {f"CONSENSUS_{name}" for name in re.findall(r'\bsetting\("((?!CONSENSUS_)[A-Z_]+)"', code)}
    from consensus_flows.tasks.calls.providers import built_in

    for provider in built_in().values():
        used |= {*provider.keys, *([provider.base_url_variable] if provider.base_url_variable else [])}
    shown = set(re.findall(r"^#([A-Z_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert used <= shown, f"not in .env.example: {sorted(used - shown)}"


def test_every_command_is_in_the_readme_or_its_page():
    from consensus_flows.flows.algorithms import BUILT_IN

    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for one in BUILT_IN:
        assert f"consensus {one.alias or one.name}" in pages
