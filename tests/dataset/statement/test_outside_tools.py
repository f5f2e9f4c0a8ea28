"""Tools of the in-toto project, which share no code with ours, read what we write, and we read what they write."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementProto
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from pipecrypt.crypto.signature import Signature
from pipecrypt.dataset.statement.envelope import (
    PAYLOAD_TYPE,
    encode_envelope,
    message_to_sign,
    parse_envelope,
    verify_envelope,
)
from pipecrypt.dataset.statement.manifest import DATASET_PREDICATE_TYPE, Manifest, decode_statement, encode_statement
from pipecrypt.errors import IntegrityError, NotTrustedError
from tests.dataset.statement.world import (
    ALICE,
    FILE_LIST,
    MALLORY,
    NOW,
    SUMMARY,
    entry,
    envelope,
    key_id,
    manifest,
    sha,
    trusting,
)

MANIFESTS = [manifest(), manifest(files=entry("ä.parquet"))]


def _theirs(data: bytes) -> Envelope:
    return Envelope.from_dict(json.loads(data))


def _public(key: Ed25519PrivateKey) -> SSlibKey:
    return SSlibKey.from_crypto(key.public_key(), keyid=key_id(key))


def _signer() -> CryptoSigner:
    return CryptoSigner(ALICE, _public(ALICE))


@pytest.mark.parametrize("made", MANIFESTS)
def test_an_envelope_of_ours_verifies_there(made: Manifest) -> None:
    theirs = _theirs(envelope(made, ALICE, MALLORY))
    keys = [_public(ALICE), _public(MALLORY)]

    assert set(theirs.verify(keys, 2)) == {key_id(ALICE), key_id(MALLORY)}
    assert theirs.payload == encode_statement(made)
    assert theirs.payload_type == PAYLOAD_TYPE
    assert theirs.pae() == message_to_sign(theirs.payload)


def test_a_forged_envelope_of_ours_fails_there() -> None:
    theirs = _theirs(envelope(manifest()))
    theirs.payload = theirs.payload.replace(b'"count":3', b'"count":4')
    with pytest.raises(VerificationError):
        theirs.verify([_public(ALICE)], 1)


@pytest.mark.parametrize("made", MANIFESTS)
def test_an_envelope_of_theirs_verifies_here(made: Manifest) -> None:
    theirs = Envelope(encode_statement(made), PAYLOAD_TYPE, {})
    theirs.sign(_signer())
    name = None if made.single_file is None else made.single_file.path

    verified = verify_envelope(json.dumps(theirs.to_dict()).encode(), trusting(ALICE), NOW, expected_file=name)
    assert verified.manifest == made
    with pytest.raises(NotTrustedError):
        verify_envelope(json.dumps(theirs.to_dict()).encode(), trusting(MALLORY), NOW, expected_file=name)


def test_their_payload_type_counts_here() -> None:
    theirs = Envelope(encode_statement(manifest()), "application/vnd.other+json", {})
    theirs.sign(_signer())
    with pytest.raises(IntegrityError):
        verify_envelope(json.dumps(theirs.to_dict()).encode(), trusting(ALICE), NOW)


def test_signatures_of_other_algorithms_pass_through() -> None:
    signer = CryptoSigner(generate_private_key(SECP256R1()))
    made = signer.sign(message_to_sign(b"statement"))
    stored = encode_envelope(b"statement", [Signature(made.keyid, bytes.fromhex(made.signature))])

    assert _theirs(stored).verify([signer.public_key], 1)
    assert parse_envelope(stored).signatures[0].value == bytes.fromhex(made.signature)


@pytest.mark.parametrize("made", MANIFESTS)
def test_a_statement_of_ours_is_valid_there(made: Manifest) -> None:
    theirs = Statement.copy_from_pb(json_format.Parse(encode_statement(made), StatementProto()))

    theirs.validate()
    assert theirs.pb.predicate_type == json.loads(encode_statement(made))["predicateType"]
    digest = sha(FILE_LIST.decode()) if made.single_file is None else sha("ä.parquet")
    assert dict(theirs.pb.subject[0].digest) == {"sha256": digest}


def test_a_statement_of_theirs_is_valid_here() -> None:
    ours = json.loads(encode_statement(manifest()))
    subject = ResourceDescriptor(name=ours["subject"][0]["name"], digest={"sha256": SUMMARY.sha256})
    theirs = json_format.MessageToDict(Statement([subject.pb], DATASET_PREDICATE_TYPE, {}).pb)
    # Protocol buffers hold every number as a float, so the predicate is put in as it was.
    theirs["predicate"] = ours["predicate"]

    assert decode_statement(json.dumps(theirs, indent=2).encode()) == manifest()
