"""Make the pictures of the README and of the docs: `make screenshots`.

Runs the product against vendors on loopback that play models, looks at its pages in headless Chromium, and writes
`docs/NAME.png` and `docs/NAME-dark.png`. Needs Chromium; `pngquant`, where there is one, makes the files smaller.

    python docs/screenshots.py [FOLDER]
"""

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from websockets.asyncio.client import ClientConnection, connect

from consensus_flows.deployments.server_access import SIGN_IN_PATH
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Usage

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
WIDTH, HEIGHT = 1400, 1000
ATTEMPTS = 30

QUESTION = "Should a team of five run its own Postgres, or pay for a managed one?"
ANSWERS = {
    "gpt-6-luna": """Pay for a managed database, unless one of the five already runs Postgres in anger.

| | self-hosted | managed |
|---|---|---|
| money per month | about $80 | about $260 |
| hours per month | 6 to 10 | under 1 |
| point-in-time recovery | yours to test | included |

The bill is three times higher and still cheaper than one engineer's afternoon. What you buy is not the installation, which is \
easy, but the *restore at three in the morning*, which is not.""",
    "claude-sonnet-5-5": """**Managed.** Three reasons, in order of weight:

1. Backups that nobody has restored are not backups, and a team of five will not rehearse restores.
2. Major upgrades come every year. Self-hosted, each is a project; managed, each is a maintenance window.
3. The on-call rota of five people is already thin.

Run your own when you need an extension that no provider offers, when data may not leave your building, or when storage \
passes a few terabytes and the price per gigabyte starts to hurt. A fair test before deciding:

```sql
SELECT pg_size_pretty(pg_database_size(current_database())),
       (SELECT count(*) FROM pg_extension) AS extensions;
```""",
    "gemini-3.8-flash": """It depends on what the team is for. Below roughly 500 GB and without exotic extensions a managed service wins, \
because the time of the team is worth more than the difference in price. Above that, self-hosting on two machines with \
streaming replication costs about a fifth. I would start managed, keep the schema free of provider-specific features, and \
look again once a year.""",
}
DISSENT = (
    "gemini-3.8-flash puts the break-even at 500 GB; claude-sonnet-5-5 at a few terabytes. Neither gives a source."
)
SYNTHESIS = """Take the managed service, and write down when you would leave it.

- **Why:** the difference is about $180 a month, and self-hosting takes 6 to 10 hours of it. Tested restores and yearly major \
upgrades are what you pay for.
- **When not:** an extension that no provider has, data that may not leave the building, or storage large enough that the price per \
gigabyte dominates.

Keep the schema free of features that only one provider has, so that leaving stays a day's work."""


def arbitrate(seen: SeenRequest) -> Reply:
    """Judge the first round with doubts and the second without; the answer itself is asked for in a call of its own."""
    if seen.schema is None:
        return Reply(text=SYNTHESIS, usage=Usage(input=700, output=160))
    done = seen.index > 1
    areas = [] if done else ["Where does self-hosting begin to pay?"]
    return Reply(text=judgement(91 if done else 64, done, areas), usage=Usage(input=640, output=150))


def judgement(confidence: int, final: bool, areas: list[str]) -> str:
    """What the arbiter writes."""
    return json.dumps(
        {
            "analysis": "All three recommend a managed service; they differ on where self-hosting starts to pay.",
            "dissent": DISSENT,
            "synthesis": SYNTHESIS,
            "confidence": confidence,
            "final": final,
            "refinement_areas": areas,
        }
    )


def capital(seen: SeenRequest) -> Reply:
    """Answer a row of the batch: now and then wrong, and one model refuses some rows."""
    country = re.findall(r"of ([A-Z][a-z]+)\?", seen.prompt)[-1]
    if seen.model == "gemini-3.8-lite" and len(country) % 4 == 0:
        return Reply(status=400, text="the prompt is too short")
    wrong = (len(country) * 7 + len(seen.model)) % 9 == 0
    return Reply(text="Vienna" if wrong else CAPITALS[country], usage=Usage(input=21, output=4))


CAPITALS = dict(
    line.split(":")
    for line in [
        "Austria:Vienna",
        "Belgium:Brussels",
        "Bulgaria:Sofia",
        "Croatia:Zagreb",
        "Denmark:Copenhagen",
        "Estonia:Tallinn",
        "Finland:Helsinki",
        "France:Paris",
        "Germany:Berlin",
        "Greece:Athens",
        "Hungary:Budapest",
        "Ireland:Dublin",
        "Italy:Rome",
        "Latvia:Riga",
        "Lithuania:Vilnius",
        "Malta:Valletta",
        "Norway:Oslo",
        "Poland:Warsaw",
        "Portugal:Lisbon",
        "Romania:Bucharest",
        "Serbia:Belgrade",
        "Slovakia:Bratislava",
        "Slovenia:Ljubljana",
        "Spain:Madrid",
        "Sweden:Stockholm",
        "Switzerland:Bern",
        "Ukraine:Kyiv",
    ]
)


ROW_MODELS = ("gpt-6-nano", "claude-haiku-5-5", "gemini-3.8-lite")


def play(vendors: LoopbackVendors) -> None:
    """Let every model say its part."""
    for model, text in ANSWERS.items():
        vendors.script(model, then=Reply(text=text, usage=Usage(input=58, output=190)))
    vendors.script("claude-opus-5-5", then=arbitrate)
    for model in ROW_MODELS:
        vendors.script(model, then=capital)


@contextmanager
def product(folder: Path, vendors: LoopbackVendors) -> Iterator[dict[str, str]]:
    """A home and a server of its own for the commands; yields their environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CONSENSUS_"))}
    environment |= {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_SERVER_API_PORT": str(port),
        "OPENAI_API_KEY": "sk-example",
        "OPENAI_BASE_URL": vendors.openai_url,
        "ANTHROPIC_API_KEY": "sk-ant-example",
        "ANTHROPIC_BASE_URL": vendors.anthropic_url,
        "GEMINI_API_KEY": "example",
        "GOOGLE_GEMINI_BASE_URL": vendors.google_url,
    }
    Path(environment["PREFECT_HOME"]).mkdir()
    try:
        yield environment
    finally:
        consensus(environment, "down")


def consensus(environment: dict[str, str], *arguments: str) -> str:
    """Run a command, and return what it prints."""
    command = [sys.executable, "-m", "consensus_flows.deployments.cli", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=environment["PREFECT_HOME"], capture_output=True, text=True, check=False
    )
    sys.stderr.write(done.stderr)
    return done.stdout


class Browser:
    """A page of headless Chromium, by its DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0

    async def send(self, method: str, **params: Any) -> Any:
        """Send a command, and return its result."""
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (reply := json.loads(await self._socket.recv())).get("id") != self._number:
            pass
        return reply["result"]

    async def evaluate(self, script: str) -> Any:
        """Evaluate JavaScript in the page."""
        done = await self.send("Runtime.evaluate", expression=script, awaitPromise=True)
        return done["result"].get("value")

    async def open(self, address: str, text: str = "") -> None:
        """Open a page, and wait until a text is in it."""
        await self.send("Page.navigate", url=address)
        for _ in range(ATTEMPTS):
            await asyncio.sleep(0.5)
            if text in (await self.evaluate("document.body.innerText") or ""):
                break
        await asyncio.sleep(1.5)

    async def shoot(self, file: Path, address: str, text: str, *, height: int = HEIGHT) -> None:
        """Take a picture of a page in light and one in dark, as soon as a text is on it."""
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        for scheme in ("light", "dark"):
            await self.evaluate(f"localStorage.setItem('color-scheme', JSON.stringify('{scheme}'))")
            feature = {"name": "prefers-color-scheme", "value": scheme}
            await self.send("Emulation.setEmulatedMedia", features=[feature])
            await self.open(address, text)
            path = file.with_stem(f"{file.stem}-dark") if scheme == "dark" else file
            path.write_bytes(base64.b64decode((await self.send("Page.captureScreenshot"))["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """Start a headless browser; yields the address of its page."""
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
    )
    process = subprocess.Popen([BROWSER, *flags, "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"ws://(\S+?)/", line) for line in process.stderr)))
        pages = httpx.get(f"http://{found[1]}/json/list").json()
        yield next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
    finally:
        process.terminate()
        process.wait()


def run_of(printed: str) -> str:
    """Return the id of the flow run in a printed record or summary."""
    return str(json.loads(printed)["flow_run_id"])


def work(environment: dict[str, str]) -> tuple[str, str]:
    """Ask the question and run the batch twice, as on two nights; return the ids of the flow runs."""
    members = ("-m", "openai/gpt-6-luna", "-m", "anthropic/claude-sonnet-5-5", "-m", "google/gemini-3.8-flash")
    question = run_of(consensus(environment, QUESTION, *members, "--arbiter", "anthropic/claude-opus-5-5", "--json"))
    rows = Path(environment["PREFECT_HOME"], "capitals.csv")
    rows.write_text("prompt\n" + "".join(f"What is the capital of {country}?\n" for country in CAPITALS))
    panel = ("-m", "openai/gpt-6-nano", "-m", "anthropic/claude-haiku-5-5", "-m", "google/gemini-3.8-lite")
    consensus(environment, "save", "night", "--flow", "vote", *panel)
    batch = ("batch", rows.name, "-o", "answers.jsonl", "--name", "night", "--review", "review.csv", "--json")
    consensus(environment, *batch)
    return question, run_of(consensus(environment, *batch))


@contextmanager
def at_the_vendors(environment: dict[str, str], vendors: LoopbackVendors) -> Iterator[None]:
    """Leave the rows in two vendors' batches, which go on as long as the block does."""
    vendors.jobs.hold = True
    panel = ("-m", "openai/gpt-6-nano", "-m", "anthropic/claude-haiku-5-5")
    night = ("batch", "capitals.csv", "-o", "night.jsonl", "--flow", "vote", *panel, "--fresh", "--vendor-batch")
    command = [sys.executable, "-m", "consensus_flows.deployments.cli", *night, "--json"]
    given = environment | {"CONSENSUS_BATCH_POLL_S": "1"}
    process = subprocess.Popen(command, env=given, cwd=environment["PREFECT_HOME"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        vendors.jobs.finish()
        process.wait()


class Server:
    """The Prefect server, as the pictures need it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.ui = f"http://127.0.0.1:{environment['PREFECT_SERVER_API_PORT']}"
        self.password = consensus(environment, "ui", "--password").strip()
        user, _, secret = self.password.partition(":")
        self._client = httpx.Client(base_url=f"{self.ui}/api", auth=(user, secret), timeout=60)
        token = self._client.get("/csrf-token", params={"client": "screenshots"}).json()["token"]
        self._client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "screenshots"})

    def running(self) -> str:
        """Return the address of the flow run that goes on, as soon as both vendors' batches show how far they are."""
        progress = {"artifacts": {"type": {"any_": ["progress"]}, "key": {"like_": "vendor-batch-"}}}
        while len(self._client.post("/artifacts/filter", json=progress).json()) < 2:
            time.sleep(1)
        going = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        return f"/runs/flow-run/{self._client.post('/flow_runs/filter', json=going).json()[0]['id']}"

    def form(self, name: str) -> str:
        """Return the address of the form of a deployment's runs."""
        return f"/deployments/deployment/{self._client.get(f'/deployments/name/{name}').json()['id']}/run"

    def artifact(self, key: str) -> str:
        """Return the address of the newest artifact with a key."""
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        return f"/artifacts/artifact/{self._client.post('/artifacts/filter', json=wanted).json()[0]['id']}"


async def take(server: Server, pages: dict[str, tuple[str, str, int]], folder: Path, page: str) -> None:
    """Take a picture of every page: its address, a text that is on it when it is there, and its height."""
    async with connect(page, max_size=None) as socket:
        browser = Browser(socket)
        await browser.open(f"{server.ui}{SIGN_IN_PATH}#{quote(server.password, safe='')}", "Dashboard")
        for name, (address, text, height) in pages.items():
            whole = address if "://" in address else server.ui + address
            await browser.shoot(folder / f"{name}.png", whole, text, height=height)


def main() -> None:
    """Take the pictures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    with (
        tempfile.TemporaryDirectory(prefix="consensus-", ignore_cleanup_errors=True) as home,
        LoopbackVendors(models=[*ANSWERS, "claude-opus-5-5", *ROW_MODELS]) as vendors,
    ):
        play(vendors)
        with product(Path(home), vendors) as environment, chromium(Path(home, "browser")) as page:
            question, _ = work(environment)
            consensus(environment, "up")
            server = Server(environment)
            pages = {
                "run": (f"/runs/flow-run/{question}", "Beginning", 1000),
                "answer": (server.artifact("answer"), "Question", 1000),
                "rounds": (server.artifact("consortium-iteration"), "Iteration", 1200),
                "batch": (server.artifact("batch-summary"), "Figures", 1500),
                "runs": ("/runs", "capitals", 900),
                "form": (server.form("batch/batch"), "prompt_column", 740),
                "review": (Path(environment["PREFECT_HOME"], "review.html").as_uri(), "capital", 1000),
            }
            asyncio.run(take(server, pages, folder, page))
            with at_the_vendors(environment, vendors):
                pages["vendor-batches"] = (server.running(), "Beginning", 640)
                asyncio.run(take(server, {"vendor-batches": pages["vendor-batches"]}, folder, page))
    if shutil.which("pngquant"):
        files = [str(path) for name in pages for path in folder.glob(f"{name}*.png")]
        subprocess.run(["pngquant", "--force", "--ext", ".png", "--skip-if-larger", *files], check=False)


if __name__ == "__main__":
    main()
