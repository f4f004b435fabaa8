"""The gateway attests every answer: the caller's challenge comes with the request, the record with the answer."""

import json

import pytest
from starlette.testclient import TestClient

from consensus_flows.blocks.pump import Pump, PumpConfig
from consensus_flows.deployments.gateway.app import Options, make_app
from consensus_flows.deployments.server import ServerInfo
from consensus_flows.tasks.attestation.failures import Kind
from tests.kits.attestation_kit import IMAGE, jwks, launcher
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import say

pytestmark = pytest.mark.usefixtures("results")
CHALLENGE = "a challenge of the caller's"
ASKED = {"model": "attested", "messages": [{"role": "user", "content": "What?"}]}


@pytest.fixture
def socket(tmp_path, monkeypatch):
    path = tmp_path / "teeserver.sock"
    monkeypatch.setenv("CONSENSUS_TEE_SOCKET", str(path))
    return path


@pytest.fixture
async def saved(prefect_server):
    await Pump(config=PumpConfig(members=["openai/one"])).asave("attested", overwrite=True)
    yield
    await Pump.adelete("attested")


@pytest.fixture
def gateway(saved):
    def serve(**options):
        app = make_app(Options(ServerInfo("http://127.0.0.1:1/api", "http://127.0.0.1:1", False), **options))
        return TestClient(app, base_url="http://localhost:8000")

    return serve


@pytest.fixture
def consensus(monkeypatch, capsys):
    return commands(monkeypatch, capsys)


def test_an_answer_of_the_gateway_is_verified(vendors, socket, gateway, consensus, tmp_path):
    say(vendors, one="42")
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(jwks()))
    verifying = ("verify", "-", "--image", IMAGE, "--jwks", keys, "--challenge")
    with launcher(socket), gateway(attest=True) as client:
        whole = client.post("/v1/chat/completions", json=ASKED | {"consensus": {"challenge": CHALLENGE}}).json()
        lines = client.post("/v1/chat/completions", json=ASKED | {"stream": True}).text.splitlines()
        response = client.post(
            "/v1/responses",
            json={"model": "attested", "input": "What?", "consensus": {"challenge": CHALLENGE}},
        ).json()
        flare = client.post("/api/routes/chat/", json={"user_message": "What?", "model": "attested"}).json()
    record = whole["consensus"]["record"]
    assert whole["choices"][0]["message"]["content"] == record["answer"] == "42"
    assert consensus(*verifying, CHALLENGE, stdin=json.dumps(record)).code == 0
    assert consensus(*verifying, "another challenge", stdin=json.dumps(record)).code == Kind.OTHER_CHALLENGE
    assert consensus(*verifying, CHALLENGE, stdin=json.dumps(response["consensus"]["record"])).code == 0
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    (streamed,) = [one["consensus"]["record"] for one in chunks if "consensus" in one]
    assert consensus(*verifying[:-1], stdin=json.dumps(streamed)).code == 0
    assert flare == {"response": "42"}


def test_a_challenge_has_no_effect_where_nothing_is_attested(vendors, socket, gateway):
    say(vendors, one="42")
    with gateway() as client:
        refused = client.post("/v1/chat/completions", json=ASKED | {"consensus": {"challenge": CHALLENGE}})
        plain = client.post("/v1/chat/completions", json=ASKED).json()
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "consensus.challenge"
    assert "record" not in plain["consensus"]


def test_without_a_token_the_answer_says_so(vendors, socket, gateway):
    say(vendors, one="42")
    with launcher(socket, *[(500, "no token")] * 9), gateway(attest=True) as client:
        made = client.post("/v1/chat/completions", json=ASKED).json()
    assert made["choices"][0]["message"]["content"] == "42"
    assert made["consensus"]["degraded"] and "not attested" in made["consensus"]["warnings"][0]
    assert "record" not in made["consensus"]


def test_a_gateway_outside_of_confidential_space_does_not_start(socket, consensus):
    ran = consensus("serve", "--attest", "--port", 0)
    assert ran.code == 2 and "Confidential Space" in ran.err
