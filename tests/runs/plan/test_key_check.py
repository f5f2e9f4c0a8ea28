"""What a plan sees of keys without a secret: that they are there, and that they are of the right kind."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipecrypt.errors import (
    AccessError,
    DamagedKeystoreError,
    KeyNotFoundError,
    KeystoreError,
    PassphraseError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.keystores import create_key, retire_key
from pipecrypt.keys.service import find_key_ids, list_sibling_keys
from pipecrypt.runs.plan.preview import check_keys, report_plan
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import EncryptSpec
from pipecrypt.store.location import Location
from tests.runs.conftest import World

NOBODY = Credentials({})
_WAYS: dict[str, Callable[[str, str], Policy]] = {
    "column": lambda here, missing: Policy({"email": missing}),
    "default": lambda here, missing: Policy({"email": here}, default=missing),
    "footer": lambda here, missing: Policy({"email": here}, footer_key=missing),
    "also": lambda here, missing: Policy({"email": here}, also=[missing]),
    "sign": lambda here, missing: Policy({"email": here}, sign=missing),
    "sign too": lambda here, missing: Policy({"email": here}, sign=[here.replace("#pii", "#signing"), missing]),
    "chunks": lambda here, missing: Policy(default=missing, mode="chunks"),
}


@pytest.fixture
def signing(world: World) -> str:
    create_key(world.reference("signing"), "ed25519", world.credentials)
    return world.reference("signing")


@pytest.mark.parametrize("way", _WAYS)
def test_a_key_that_is_not_in_the_keystore_is_told_with_the_command_that_makes_it(
    way: str, world: World, signing: str
) -> None:
    missing = world.reference("none")
    request = EncryptSpec(
        source=Location(str(world.raw)), sink=Location(str(world.out)), policy=_WAYS[way](world.key, missing)
    )
    with pytest.raises(KeyNotFoundError) as caught:
        report_plan(request)
    assert caught.value.exit_code == 4
    command = f"pipecrypt keys new {missing}" + (" --type ed25519" if way.startswith("sign") else "")
    assert f"{command} makes it" in caught.value.hint
    assert not world.out.exists()


@pytest.mark.parametrize("way", _WAYS)
def test_a_keystore_that_is_not_there_is_told(way: str, world: World, signing: str) -> None:
    with pytest.raises(KeystoreError, match=r"elsewhere\.json does not exist") as caught:
        check_keys(_WAYS[way](world.key, f"keystore://{world.root}/elsewhere.json#pii"), NOBODY)
    assert "pipecrypt keys new" in caught.value.hint
    assert not (world.root / "elsewhere.json").exists()


@pytest.mark.parametrize("scheme", ["pem", "recipient"])
def test_files_of_keys_are_looked_for_too(scheme: str, world: World) -> None:
    with pytest.raises(AccessError):
        check_keys(Policy({"email": world.key}, also=[f"{scheme}://{world.root}/none.pem"]), NOBODY)


def test_a_key_for_something_else_is_told(world: World, signing: str) -> None:
    for policy in (Policy({"email": signing}), Policy({"email": world.key}, sign=world.key)):
        with pytest.raises(UsageError):
            check_keys(policy, NOBODY)


def test_keys_that_are_there_need_no_secret_and_services_elsewhere_are_not_asked(world: World, signing: str) -> None:
    policy = Policy({"email": world.key}, also=["aws-kms://alias/nobody?region=eu-west-1"], sign=signing)
    check_keys(policy, NOBODY)
    check_keys(replace(policy, also=["vault://127.0.0.1:1/transit/none", "pkcs11:token=none;object=none"]), NOBODY)


# ---- what a keystore says ----


def _rename(document: dict[str, Any]) -> None:
    """Let another key take the name of one that is not there."""
    document["keys"][0]["name"] = "forged"


def _add(document: dict[str, Any]) -> None:
    document["keys"].append({**document["keys"][0], "name": "forged", "id": str(uuid.uuid4())})


def _remove(document: dict[str, Any]) -> None:
    document["keys"] = [key for key in document["keys"] if key["name"] != "other"]


def _unretire(document: dict[str, Any]) -> None:
    next(key for key in document["keys"] if key["name"] == "old").pop("retired")


def _change(world: World, change: Callable[[dict[str, Any]], None]) -> None:
    path = world.root / "keys.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def with_retired(world: World) -> World:
    create_key(world.reference("old"), "aes256", world.credentials)
    retire_key(world.reference("old"), 1, world.credentials)
    return world


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_rename, "forged"),
        (_add, "forged"),
        (_remove, "pii"),
        (_remove, "other"),
        (_unretire, "old"),
        (_unretire, "pii"),
    ],
)
def test_a_forged_keystore_is_named_where_its_secret_is_at_hand(
    with_retired: World, change: Callable[[dict[str, Any]], None], name: str
) -> None:
    world, reference = with_retired, with_retired.reference(name)
    request = EncryptSpec(
        source=Location(str(world.raw)), sink=Location(str(world.out)), policy=Policy({"email": reference})
    )
    _change(world, change)
    for look in (
        lambda: check_keys(request.policy, world.credentials),
        lambda: report_plan(request, world.credentials),
        lambda: list_sibling_keys(reference, world.credentials),
        lambda: find_key_ids(reference, world.credentials),
    ):
        with pytest.raises(DamagedKeystoreError, match=r"keys\.json") as caught:
            look()
        assert caught.value.exit_code == 3


def test_what_nothing_proves_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    check_keys(Policy({"email": world.key}), world.credentials)
    assert "nothing proves" not in caplog.text
    check_keys(Policy({"email": world.key}), NOBODY)
    said = (
        f"nothing proves what was found of keys: keystore {world.root}/keys.json: no passphrase or key file was given"
    )
    assert said in caplog.text


def test_a_secret_that_does_not_open_the_keystore_is_told_before_a_run(world: World) -> None:
    (world.root / "wrong").write_bytes(bytes(32))
    (world.root / "wrong").chmod(0o600)
    wrong = Credentials({"PIPECRYPT_KEY_FILE": str(world.root / "wrong"), "PIPECRYPT_STATE_DIR": ""})
    with pytest.raises(PassphraseError) as caught:
        check_keys(Policy({"email": world.key}), wrong)
    assert caught.value.exit_code == 4
