"""Tools that share no code with ours check a dataset that a run has signed."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementProto
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from pipecrypt.dataset.statement.paths import MANIFEST_PATH
from pipecrypt.keys.credentials import Credentials
from tests.dataset.written import World
from tests.keys.public_halves import read_public_keys


def test_a_dataset_checks_out_with_other_tools(world: World) -> None:
    names = ("signing", "second")
    world.sign(world.policy(sign=[world.reference(name) for name in names], valid_for=timedelta(days=1)))

    pems = [read_public_keys(world.reference(name), credentials=Credentials({}))[-1] for name in names]
    keys = [SSlibKey.from_crypto(load_pem_public_key(each.pem.encode()), keyid=each.key_id) for each in pems]
    envelope = Envelope.from_dict(json.loads((world.out / MANIFEST_PATH).read_bytes()))
    assert set(envelope.verify(keys, 2)) == {each.key_id for each in pems}

    statement = Statement.copy_from_pb(json_format.Parse(envelope.payload, StatementProto()))
    statement.validate()
    (subject,) = statement.pb.subject
    assert subject.name == world.verify().manifest.file_list_path
    assert dict(subject.digest) == {"sha256": hashlib.sha256((world.out / subject.name).read_bytes()).hexdigest()}
