"""Runs that are attested, through the launcher's socket, and verified afterwards."""

import json
from datetime import UTC, datetime

import pytest

from consensus_flows.blocks.attestation import AttestationSettings
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.deployments.terminal import Exit
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.attestation.digest import configuration_digest
from consensus_flows.tasks.attestation.failures import Kind
from consensus_flows.tasks.attestation.signature import KeySet, fingerprint
from consensus_flows.tasks.attestation.verifying import Expected, verify
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.attestation_kit import IMAGE, chain, jwks, launcher
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import ARBITER, MEMBERS, judged, say
from tests.kits.kinds import kinds

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]

CHALLENGE = "a challenge of the caller's"
KEYS = KeySet.model_validate(jwks())


def config(**settings):
    return VoteConfig.model_validate(
        {"members": ["openai/one", "openai/two"], "extract": "number", "attestation": {"attest": True}} | settings
    )


@pytest.fixture
def socket(tmp_path, monkeypatch):
    path = tmp_path / "teeserver.sock"
    monkeypatch.setenv("CONSENSUS_TEE_SOCKET", str(path))
    return path


@pytest.fixture
def consensus(monkeypatch, capsys):
    return commands(monkeypatch, capsys)


def failures(record, trust=KEYS, **expected):
    return [one.kind for one in verify(record, Expected(IMAGE, datetime.now(UTC), **expected), trust).failures]


async def test_an_attested_run_is_verified(vendors, socket):
    say(vendors, one="It is 42.", two="It is 42.")
    with launcher(socket) as requests:
        settings = config(attestation={"attest": True, "challenge": CHALLENGE})
        record = await run_vote("What is 6 times 7?", settings)
    attested = record.attestation
    assert requests == [
        {
            "path": "/v1/token",
            "audience": "consensus-flows",
            "token_type": "OIDC",
            "nonces": [CHALLENGE, f"consensus:{attested.digest}"],
        }
    ]
    assert record.answer == "42" and not record.degraded and kinds(record) == []
    assert attested.parts.models == ["openai/one", "openai/two"]
    assert attested.parts.endpoints == dict.fromkeys(attested.parts.models, vendors.openai_url)
    assert attested.parts.conversation is None
    assert failures(record, challenge=CHALLENGE, configuration=configuration_digest(settings)) == []
    # Who attests is none of the settings that a verifier has to know.
    assert failures(record, configuration=configuration_digest(config(attestation={}))) == []
    assert failures(record, configuration=configuration_digest(config(quorum=2))) == [Kind.OTHER_CONFIGURATION]


async def test_a_pki_token_and_an_audience_can_be_asked_for(vendors, socket):
    say(vendors, one="42", two="42")
    with launcher(socket):
        record = await run_vote(
            "What?", config(attestation={"attest": True, "token_type": "PKI", "audience": "somebody"})
        )
    assert failures(record, fingerprint(chain()[-1]), audience="somebody") == []
    assert failures(record, fingerprint(chain()[-1])) == [Kind.OTHER_AUDIENCE]


async def test_the_conversation_is_attested_too(vendors, socket):
    say(vendors, one="42", two="42")
    turns = (Message(role="user", content="Hello"), Message(role="assistant", content="Hello!"))
    with launcher(socket):
        first = await run_vote("What?", config(), conversation=turns)
        second = await run_vote("What?", config(), conversation=turns[:0])
    assert first.attestation.parts.conversation and not second.attestation.parts.conversation


async def test_outside_of_confidential_space_nothing_is_asked(vendors, socket):
    with pytest.raises(ConfigurationError) as refused:
        await run_vote("What?", config())
    assert refused.value.field == "attest" and vendors.count() == 0
    socket.write_text("no socket")
    with pytest.raises(ConfigurationError):
        await run_vote("What?", config())
    assert vendors.count() == 0


async def test_a_launcher_that_fails_once_is_asked_again(vendors, socket):
    say(vendors, one="42", two="42")
    with launcher(socket, (500, "failed to retrieve attestation service token")) as requests:
        record = await run_vote("What?", config())
    assert len(requests) == 2 and failures(record) == [] and kinds(record) == []


@pytest.mark.parametrize("gone", [False, True])
async def test_without_a_token_the_answer_stands(vendors, socket, gone):
    say(vendors, one="42", two="42")
    if gone:  # its socket is still there
        with launcher(socket):
            pass
        record = await run_vote("What?", config())
    else:
        with launcher(socket, *[(500, "no token")] * 9) as requests:
            record = await run_vote("What?", config())
        assert len(requests) == 4
    assert record.answer == "42" and record.degraded and record.attestation is None
    assert kinds(record) == [("not_attested", None, None)]


async def test_a_saved_panel_behind_a_vote_is_no_run_of_its_own(vendors, socket):
    from consensus_flows.blocks.pump import Pump, PumpConfig

    say(vendors, one="1", two="2", own="3")
    await Pump(config=PumpConfig(members=["openai/own"], attestation={"attest": True})).asave(
        "attested-behind", overwrite=True
    )
    try:
        with launcher(socket) as requests:
            record = await run_vote("What?", config(cascade="openai/one,openai/two>attested-behind"))
    finally:
        await Pump.adelete("attested-behind")
    assert record.attestation and len(requests) == 1
    assert record.attestation.parts.models == ["openai/one", "openai/own", "openai/two"]


@pytest.mark.parametrize(
    "settings",
    [
        {"challenge": CHALLENGE},
        {"audience": "somebody"},
        {"token_type": "PKI"},
        {"attest": True, "challenge": "short"},
        {"attest": True, "challenge": "é" * 45},
        {"attest": True, "challenge": "consensus:1234"},
        {"attest": True, "audience": ""},
        {"attest": True, "audience": "é" * 257},
        {"attest": True, "token_type": "JWT"},
    ],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"challenge|audience|token_type"):
        AttestationSettings.model_validate(settings)


# The commands.


def test_a_command_attests_and_another_verifies(vendors, socket, consensus, tmp_path):
    say(vendors, **{name.partition("/")[2]: "It is 42." for name in MEMBERS})
    vendors.script(ARBITER.partition("/")[2], then=judged())
    record, keys = tmp_path / "record.json", tmp_path / "jwks.json"
    keys.write_text(json.dumps(jwks()))
    given = [word for name in MEMBERS for word in ("-m", name)]
    with launcher(socket):
        ran = consensus(
            "ask", "What?", *given, "--arbiter", ARBITER, "--attest", "--challenge", CHALLENGE, "-o", record
        )
    assert ran.code == 0, ran.err
    verifying = ("verify", record, "--image", IMAGE, "--jwks", keys, "--challenge", CHALLENGE)
    assert consensus(*verifying).code == 0
    settings = tmp_path / "panel.json"
    settings.write_text(json.dumps({"members": MEMBERS, "arbiter": ARBITER}))
    assert consensus(*verifying, "--config", settings).code == 0
    settings.write_text(json.dumps({"members": MEMBERS, "arbiter": "openai/another"}))
    assert consensus(*verifying, "--config", settings).code == Kind.OTHER_CONFIGURATION
    changed = json.loads(record.read_text())
    changed["answer"] += "!"
    record.write_text(json.dumps(changed))
    assert consensus(*verifying).code == Kind.RECORD_CHANGED
    # What the history holds is verified, too.
    kept = consensus("run", changed["flow_run_id"], "--json")
    assert consensus("verify", "-", *verifying[2:], stdin=kept.out).code == 0, kept


def test_an_answer_that_is_not_attested_has_an_exit_code_of_its_own(vendors, socket, consensus, tmp_path):
    say(vendors, one="42", two="42")
    record = tmp_path / "record.json"
    given = ("vote", "What?", "-m", "openai/one", "-m", "openai/two", "--attest", "--raw", "-o", record)
    with launcher(socket, *[(500, "no token")] * 9):
        ran = consensus(*given)
    assert (ran.code, ran.out.strip()) == (Exit.NOT_ATTESTED, "42")
    assert "not attested" in ran.err
    assert json.loads(record.read_text())["degraded"]
    socket.unlink()
    ran = consensus(*given)
    assert ran.code == Exit.BAD_INPUT and "Confidential Space" in ran.err and vendors.count() == 2


def test_the_rows_of_a_batch_are_not_attested(vendors, socket, consensus, tmp_path):
    (tmp_path / "in.txt").write_text("What?\n")
    given = ("batch", tmp_path / "in.txt", "-o", tmp_path / "out.jsonl", "-m", "openai/one", "--flow", "vote")
    ran = consensus(*given, "--attest")
    assert ran.code == Exit.BAD_INPUT and "attest" in ran.err and vendors.count() == 0
