"""What is verified of an attested record, each thing wrong in turn."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from consensus_flows.deployments.commands.verify import SENTENCES
from consensus_flows.tasks.attestation.digest import canonical, digest_of, nonce_of, parts_of
from consensus_flows.tasks.attestation.failures import Kind
from consensus_flows.tasks.attestation.signature import KeySet, fingerprint
from consensus_flows.tasks.attestation.verifying import Expected, verify
from consensus_flows.tasks.record import Attestation, Iteration, Record, Response
from tests.kits.attestation_kit import (
    IMAGE,
    ISSUER,
    MISSING,
    NOW,
    certificate,
    chain,
    claims,
    jwks,
    key,
    sign_oidc,
    sign_pki,
    x5c,
)
from tests.kits.command_kit import commands

CHALLENGE = "a challenge of the caller's"
KEYS = KeySet.model_validate(jwks())


def attested(token=None, *, challenge=CHALLENGE, pki=False, conversation=(), header=(), **changes):
    """A record with a good attestation, but for what is given."""
    record = Record(
        flow="vote",
        flow_run_id="run-1",
        prompt="What is 6 times 7?",
        answer="42",
        iterations=[
            Iteration(
                number=1,
                responses=[
                    Response(member=f"openai/{name}#1", provider="openai", model=name, text="It is 42.", attempts=1)
                    for name in ("one", "two")
                ],
            )
        ],
    )
    record.add_up()
    parts = parts_of(
        record,
        configuration=Record(flow="x", prompt="y"),
        conversation=conversation,
        endpoints={"openai/one": "https://api.openai.com/v1", "openai/two": "https://api.openai.com/v1"},
        time="2026-06-01T12:00:00Z",
    )
    nonces = [*([challenge] if challenge else []), nonce_of(digest_of(parts))]
    sign = sign_pki if pki else sign_oidc
    record.attestation = Attestation(
        parts=parts,
        digest=digest_of(parts),
        challenge=challenge,
        audience="consensus-flows",
        token=token or sign(claims(nonces, **changes), **dict(header)),
    )
    return record


def kinds(record, trust=KEYS, **expected):
    wanted = Expected(**{"image": IMAGE, "at": NOW, "challenge": CHALLENGE} | expected)
    return [failure.kind for failure in verify(record, wanted, trust).failures]


def test_a_good_record_is_verified():
    assert kinds(attested()) == []
    assert kinds(attested(pki=True), fingerprint(chain()[-1])) == []
    assert kinds(attested(challenge=None), challenge=None) == []
    # A record whose challenge nobody asks for.
    assert kinds(attested(), challenge=None) == []


@pytest.mark.parametrize("pki", [False, True])
@pytest.mark.parametrize(
    ("claim", "value", "kind"),
    [
        ("iss", "https://accounts.google.com", Kind.OTHER_ISSUER),
        ("iss", MISSING, Kind.OTHER_ISSUER),
        ("aud", "https://sts.googleapis.com", Kind.OTHER_AUDIENCE),
        ("aud", ["consensus-flows", "another"], Kind.OTHER_AUDIENCE),
        ("aud", MISSING, Kind.OTHER_AUDIENCE),
        ("exp", int(NOW.timestamp()) - 61, Kind.EXPIRED),
        ("exp", MISSING, Kind.MALFORMED_CLAIMS),
        ("exp", "tomorrow", Kind.MALFORMED_CLAIMS),
        ("iat", int(NOW.timestamp()) + 61, Kind.NOT_YET_VALID),
        ("nbf", int(NOW.timestamp()) + 61, Kind.NOT_YET_VALID),
        ("iat", MISSING, Kind.MALFORMED_CLAIMS),
        ("eat_nonce", MISSING, Kind.OTHER_RECORD),
        ("eat_nonce", CHALLENGE, Kind.OTHER_RECORD),
        ("swname", "GCE", Kind.OTHER_SOFTWARE),
        ("swname", MISSING, Kind.OTHER_SOFTWARE),
        ("dbgstat", "enabled", Kind.DEBUG_IMAGE),
        ("dbgstat", MISSING, Kind.DEBUG_IMAGE),
        ("submods__confidential_space__support_attributes", ["LATEST", "USABLE"], Kind.UNSUPPORTED_IMAGE),
        ("submods__confidential_space", {}, Kind.UNSUPPORTED_IMAGE),
        ("submods__confidential_space", MISSING, Kind.UNSUPPORTED_IMAGE),
        ("secboot", False, Kind.NO_SECURE_BOOT),
        ("secboot", "true", Kind.NO_SECURE_BOOT),
        ("secboot", MISSING, Kind.NO_SECURE_BOOT),
        ("hwmodel", "GCP_SHIELDED_VM", Kind.OTHER_HARDWARE),
        ("hwmodel", MISSING, Kind.OTHER_HARDWARE),
        ("submods__container__image_digest", f"sha256:{'b2' * 32}", Kind.OTHER_IMAGE),
        ("submods__container__image_digest", MISSING, Kind.OTHER_IMAGE),
        ("submods__container__env_override", {"OPENAI_BASE_URL": "https://evil"}, Kind.ENVIRONMENT_CHANGED),
        ("submods__container__env_override", ["OPENAI_BASE_URL"], Kind.ENVIRONMENT_CHANGED),
        ("submods__container__cmd_override", ["sh", "-c", "evil"], Kind.COMMAND_CHANGED),
    ],
)
def test_each_claim_that_is_wrong_has_a_failure_of_its_own(claim, value, kind, pki):
    trust = fingerprint(chain()[-1]) if pki else KEYS
    found = kinds(attested(pki=pki, **{claim: value}), trust)
    if claim == "eat_nonce":
        assert found[0] == kind
    else:
        assert found == [kind]


@pytest.mark.parametrize("claim", ["submods", "submods__container"])
@pytest.mark.parametrize("value", [MISSING, None, "text", []])
def test_claims_of_another_shape_are_refused(claim, value):
    assert Kind.OTHER_IMAGE in kinds(attested(**{claim: value}))


def test_clocks_may_differ_a_little():
    seconds = int(NOW.timestamp())
    assert kinds(attested(exp=seconds - 30)) == []
    assert kinds(attested(iat=seconds + 30, nbf=seconds + 30)) == []


def test_an_expired_token_is_verified_as_of_its_time():
    record = attested()
    assert kinds(record, at=NOW + timedelta(days=9)) == [Kind.EXPIRED]
    assert kinds(record, at=NOW + timedelta(minutes=59)) == []
    assert kinds(record, at=NOW - timedelta(days=9)) == [Kind.NOT_YET_VALID]


def test_what_may_differ_is_named():
    assert kinds(attested(hwmodel="GCP_INTEL_TDX"), hardware=("GCP_AMD_SEV",)) == [Kind.OTHER_HARDWARE]
    override = {"submods__container__env_override": {"SECRET": "projects/1/secrets/key"}}
    assert kinds(attested(**override), environment=("SECRET",)) == []
    assert kinds(attested(), audience="another") == [Kind.OTHER_AUDIENCE]
    assert kinds(attested(), configuration="0" * 64) == [Kind.OTHER_CONFIGURATION]


# Nonces.


def test_another_challenge_is_refused():
    assert kinds(attested(challenge="an older challenge"))[0] == Kind.OTHER_CHALLENGE
    assert kinds(attested(challenge=None)) == [Kind.OTHER_CHALLENGE]
    record = attested(challenge=None)
    record.attestation = record.attestation.model_copy(update={"challenge": CHALLENGE})
    assert kinds(record, challenge=None) == [Kind.OTHER_CHALLENGE]


def test_a_challenge_cannot_pass_for_the_digest_of_a_record():
    """The caller of an image could else have any record attested, by giving its digest as the challenge."""
    forged = attested(challenge=None, conversation=[{"role": "user", "content": "of the caller's own making"}])
    digest = forged.attestation.digest
    forged.attestation = attested(challenge=digest).attestation.model_copy(
        update={"parts": forged.attestation.parts, "digest": digest, "challenge": None}
    )
    assert Kind.OTHER_RECORD in kinds(forged, challenge=None)


def test_a_nonce_of_something_else_is_refused():
    good = attested()
    nonces = [CHALLENGE, nonce_of(good.attestation.digest), "something else"]
    assert kinds(attested(sign_oidc(claims(nonces)))) == [Kind.OTHER_NONCES]
    assert kinds(attested(sign_oidc(claims(nonces[:2])), challenge=None), challenge=None) == [Kind.OTHER_NONCES]


# The record.


def _change(record, path, value):
    document = record.model_dump(mode="json")
    where = document
    *parents, last = path
    for name in parents:
        where = where[name]
    where[last] = value
    return Record.model_validate(document)


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        (["prompt"], "What is 6 times 8?", ["prompt"]),
        (["answer"], "43", ["answer"]),
        (["answer"], None, ["answer"]),
        (["flow"], "consortium", ["flow"]),
        (["flow_run_id"], "run-2", ["run_id"]),
        (["run_id"], "run-2", ["run_id"]),
        (["iterations", 0, "responses", 1, "model"], "three", ["models"]),
        (["iterations", 0, "responses", 1, "provider"], "google", ["models"]),
        (["iterations", 0, "responses", 1, "member"], "openai/three#1", ["calls"]),
        (["iterations", 0, "responses", 1, "text"], "It is 43.", ["calls"]),
        (["iterations", 0, "responses", 1, "cached"], True, ["calls"]),
        (["iterations", 0, "responses", 1, "recorded"], True, ["calls"]),
        (["iterations"], [], ["models", "calls"]),
    ],
)
def test_a_record_that_was_changed_is_refused(path, value, parts):
    expected = Expected(IMAGE, NOW, CHALLENGE)
    found = verify(_change(attested(), path, value), expected, KEYS).failures
    assert [(one.kind, one.found) for one in found] == [(Kind.RECORD_CHANGED, part) for part in parts]


@pytest.mark.parametrize("part", ["configuration", "conversation", "time", "endpoints", "prompt", "digest"])
def test_parts_that_were_changed_are_refused(part):
    record = attested(conversation=[{"role": "user", "content": "Hello"}])
    if part == "digest":
        assert kinds(_change(record, ["attestation", "digest"], "0" * 64)) == [Kind.DIGEST_CHANGED]
        return
    value = {"openai/one": "https://evil"} if part == "endpoints" else "0" * 64
    changed = _change(record, ["attestation", "parts", part], value)
    assert [kind for kind in kinds(changed) if kind != Kind.RECORD_CHANGED] == [
        Kind.DIGEST_CHANGED,
        Kind.OTHER_RECORD,
        Kind.OTHER_NONCES,
    ]
    # With its digest made to fit, only the token tells.
    digest = digest_of(changed.attestation.parts)
    assert Kind.OTHER_RECORD in kinds(_change(changed, ["attestation", "digest"], digest))


def test_the_digest_can_be_computed_by_anybody():
    """With nothing but hashes and JSON, as the documentation describes it."""
    document = attested().model_dump(mode="json")
    parts = document["attestation"]["parts"]
    calls = [
        [one["member"], one["text"], one["cached"], one["recorded"]] for one in document["iterations"][0]["responses"]
    ]

    def sha(text):
        return hashlib.sha256(text.encode()).hexdigest()

    assert parts["answer"] == sha(document["answer"]) and parts["prompt"] == sha(document["prompt"])
    assert parts["calls"] == sha(json.dumps(calls, separators=(",", ":"), ensure_ascii=False))
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert document["attestation"]["digest"] == sha(text)


def test_half_a_character_has_the_digest_of_what_is_written_for_it():
    assert canonical("a\ud800") == b'"a?"'


# Signatures.


def _unsigned(token, **header):
    """The token with another header, and no signature."""
    head, body, _ = token.split(".")
    padded = base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))
    new = {name: value for name, value in (json.loads(padded) | header).items() if value is not None}
    return f"{base64.urlsafe_b64encode(json.dumps(new).encode()).decode().rstrip('=')}.{body}"


def _b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_token_of_no_algorithm_is_refused():
    good = attested()
    for name in ("none", "None", ""):
        record = attested(_unsigned(good.attestation.token, alg=name) + ".")
        assert Kind.WRONG_ALGORITHM in kinds(record)


def test_a_public_key_is_no_secret():
    """HS256 with the public key as the secret: whoever lets the token choose the algorithm takes it for signed."""
    good = attested()
    public = key("oidc").public_key()
    pem = public.public_bytes(Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = _unsigned(good.attestation.token, alg="HS256")
    forged = f"{text}.{_b64(hmac.digest(pem, text.encode(), 'sha256'))}"
    assert kinds(attested(forged)) == [Kind.WRONG_ALGORITHM]


def test_another_key_of_the_same_name_is_refused():
    assert kinds(attested(header={"by": "another"})) == [Kind.BAD_SIGNATURE]


def test_other_claims_under_the_same_signature_are_refused():
    good = attested().attestation
    head, _, signature = good.token.split(".")
    body = _b64(json.dumps(claims([CHALLENGE, nonce_of(good.digest)], hwmodel="GCP_INTEL_TDX")).encode())
    assert kinds(attested(f"{head}.{body}.{signature}")) == [Kind.BAD_SIGNATURE]


@pytest.mark.parametrize(
    ("header", "kind"), [({"kid": "key-2"}, Kind.UNKNOWN_KEY_ID), ({"kid": None}, Kind.MISSING_KEY_ID)]
)
def test_a_key_that_is_not_known_is_refused(header, kind):
    if header["kid"] is None:
        good = attested().attestation.token
        assert kinds(attested(_unsigned(good, kid=None) + "." + good.split(".")[2])) == [kind]
    else:
        assert kinds(attested(header=header)) == [kind]


@pytest.mark.parametrize(
    "own",
    [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {}],
)
def test_a_key_that_cannot_be_used_is_refused(own):
    assert kinds(attested(), KeySet(keys=[own | {"kid": "key-1"}])) == [Kind.BAD_SIGNATURE]


def test_the_wrong_type_of_token_is_refused():
    assert kinds(attested(), fingerprint(chain()[-1])) == [Kind.WRONG_TYPE]
    assert kinds(attested(pki=True)) == [Kind.WRONG_TYPE]


@pytest.mark.parametrize("token", ["", "abc", "a.b.c", "..", "bm90IGpzb24.e30.AA", f"{_b64(b'{}')}.{_b64(b'[]')}.AA"])
def test_what_is_no_token_is_refused(token):
    record = attested()
    record.attestation = record.attestation.model_copy(update={"token": token})
    assert kinds(record) == [Kind.MALFORMED_TOKEN]


# Chains of certificates.


def test_a_chain_that_ends_elsewhere_is_refused():
    root = fingerprint(chain()[-1])
    other = certificate("other root", "other root", ca=True)
    own = [chain()[0], certificate("intermediate", "other root", ca=True), other]
    assert kinds(attested(pki=True, header={"certificates": own}), root) == [Kind.OTHER_ROOT]
    # The right root behind a chain that it did not issue.
    own[-1] = chain()[-1]
    assert kinds(attested(pki=True, header={"certificates": own}), root) == [Kind.BROKEN_CHAIN]
    assert kinds(attested(pki=True, header={"certificates": chain()[:2]}), root) == [Kind.OTHER_ROOT]


def test_a_leaf_that_was_not_issued_by_the_intermediate_is_refused():
    own = [certificate("leaf", "intermediate", ca=False, signed_by="another"), *chain()[1:]]
    assert kinds(attested(pki=True, header={"certificates": own}), fingerprint(chain()[-1])) == [Kind.BROKEN_CHAIN]


def test_a_certificate_that_may_not_issue_issues_nothing():
    own = [certificate("leaf of leaf", "leaf", ca=False), *chain()]
    found = kinds(attested(pki=True, header={"certificates": own, "by": "leaf of leaf"}), fingerprint(chain()[-1]))
    assert found == [Kind.BROKEN_CHAIN]


def test_certificates_are_valid_at_the_time():
    old = certificate("leaf", "intermediate", ca=False, ends=NOW - timedelta(days=1))
    found = kinds(attested(pki=True, header={"certificates": [old, *chain()[1:]]}), fingerprint(chain()[-1]))
    assert found == [Kind.CERTIFICATE_DATES]


def test_a_token_that_the_leaf_did_not_sign_is_refused():
    assert kinds(attested(pki=True, header={"by": "another"}), fingerprint(chain()[-1])) == [Kind.BAD_SIGNATURE]


def test_a_token_with_a_chain_names_no_key():
    found = kinds(attested(pki=True, header={"kid": "key-1"}), fingerprint(chain()[-1]))
    assert found == [Kind.UNEXPECTED_KEY_ID]


@pytest.mark.parametrize("given", [[], ["not base64!"], [_b64(b"no certificate")], "text", [1], None])
def test_a_chain_that_cannot_be_read_is_refused(given):
    record = attested(pki=True, header={"x5c": given})
    assert Kind.BROKEN_CHAIN in kinds(record, fingerprint(chain()[-1]))


# The command.


@pytest.fixture
def consensus(monkeypatch, capsys):
    return commands(monkeypatch, capsys)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "record.json").write_text(attested().model_dump_json())
    (tmp_path / "pki.json").write_text(attested(pki=True).model_dump_json())
    (tmp_path / "jwks.json").write_text(json.dumps(jwks()))
    (tmp_path / "root.pem").write_bytes(chain()[-1].public_bytes(Encoding.PEM))
    (tmp_path / "root.der").write_bytes(chain()[-1].public_bytes(Encoding.DER))
    return tmp_path


AT = ("--at", "2026-06-01T12:00:00")


def test_the_command_says_what_is_proved_and_what_not(consensus, files):
    given = ("--image", f"us-docker.pkg.dev/p/consensus@{IMAGE}", *AT, "--challenge", CHALLENGE)
    ran = consensus("verify", files / "record.json", "--jwks", files / "jwks.json", *given)
    assert ran.code == 0, ran
    assert ran.out.startswith("verified\nProved:\n") and "Not proved:" in ran.out and "they sign nothing" in ran.out
    ran = consensus("verify", files / "record.json", "--jwks", files / "jwks.json", *given, "--json")
    document = json.loads(ran.out)
    assert document["verified"] and len(document["proved"]) == 4 and len(document["not_proved"]) == 3
    assert document["claims"]["iss"] == ISSUER


def test_a_pinned_root_is_a_file_or_its_fingerprint(consensus, files):
    given = ("verify", files / "pki.json", "--image", IMAGE, *AT)
    root = fingerprint(chain()[-1])
    colons = ":".join(root[at : at + 2] for at in range(0, 64, 2)).upper()
    for pinned in (
        ("--pki-root", files / "root.pem"),
        ("--pki-root", files / "root.der"),
        ("--pki-root-sha256", root),
        ("--pki-root-sha256", colons, "--pki-root", files / "root.pem"),
    ):
        assert consensus(*given, *pinned).code == 0
    assert consensus(*given, "--pki-root", files / "root.pem", "--pki-root-sha256", "0" * 64).code == 2
    assert consensus(*given, "--pki-root-sha256", "0" * 64).code == Kind.OTHER_ROOT


def test_all_failures_are_listed_and_the_first_is_the_exit_code(consensus, files):
    record = attested(dbgstat="enabled", secboot=False)
    record.answer = "43"
    ran = consensus(
        "verify",
        "-",
        "--image",
        IMAGE,
        "--jwks",
        files / "jwks.json",
        *AT,
        "--json",
        stdin=record.model_dump_json(),
    )
    document = json.loads(ran.out)
    found = [one["kind"] for one in document["failures"]]
    assert found == ["record_changed", "debug_image", "no_secure_boot"]
    assert ran.code == Kind.RECORD_CHANGED == document["failures"][0]["exit_code"]
    assert document["failures"][0]["found"] == "answer" and not document["verified"] and not document["proved"]


def test_a_record_without_an_attestation_is_refused(consensus, files):
    (files / "plain.json").write_text(Record(flow="vote", prompt="What?").model_dump_json())
    ran = consensus("verify", files / "plain.json", "--image", IMAGE)
    assert ran.code == Kind.NOT_ATTESTED and "--attest" in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["record.json", "--image", "latest"], "--image"),
        (["record.json", "--image", "sha256:abc"], "--image"),
        (["nowhere.json", "--image", IMAGE], "cannot be read"),
        (["jwks.json", "--image", IMAGE], "not the record of a run"),
        (["record.json", "--image", IMAGE, "--jwks", "record.json"], "--jwks"),
        (["record.json", "--image", IMAGE, "--jwks", "nowhere.json"], "--jwks"),
        (["record.json", "--image", IMAGE, "--pki-root", "jwks.json"], "--pki-root"),
        (["record.json", "--image", IMAGE, "--pki-root-sha256", "abc"], "--pki-root-sha256"),
        (["record.json", "--image", IMAGE, "--pki-root", "root.pem", "--jwks", "jwks.json"], "give one of them"),
    ],
)
def test_bad_input_is_one_sentence(consensus, files, monkeypatch, arguments, said):
    monkeypatch.chdir(files)
    ran = consensus("verify", *arguments)
    assert ran.code == 2 and said in ran.err and not ran.out


def test_keys_that_cannot_be_fetched_are_no_proof_of_anything(consensus, files, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    ran = consensus("verify", files / "record.json", "--image", IMAGE, *AT)
    assert ran.code == Kind.KEYS_UNAVAILABLE and "--jwks" in ran.out


def test_every_kind_has_a_sentence_and_a_line_in_the_documentation():
    assert set(SENTENCES) == set(Kind)
    page = (Path(__file__).parents[2] / "docs" / "attestation.md").read_text(encoding="utf-8")
    assert [kind for kind in Kind if f"| {int(kind)} | `{kind.slug}` |" not in page] == []


def test_nothing_of_prefect_or_a_vendor_is_imported():
    script = (
        "import sys; from consensus_flows.deployments.commands.verify import verify; "
        "print([name for name in ('prefect', 'openai', 'anthropic', 'google.genai', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_x5c_is_what_google_writes():
    assert x5c(chain()[-1])[0].startswith("MII")
