"""What a plan sees of keys without a secret: that they are there, and that they are of the right kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipecrypt.errors import AccessError, KeyNotFoundError, KeystoreError, UsageError
from pipecrypt.keys.services.keystore.making import create_key
from pipecrypt.pipeline.planning.key_check import check_keys
from pipecrypt.pipeline.planning.plan_report import report_plan
from pipecrypt.pipeline.request.policy import Policy
from pipecrypt.pipeline.request.request import EncryptRequest
from pipecrypt.storage.location import Location
from tests.pipeline.conftest import World

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
    request = EncryptRequest(
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
        check_keys(_WAYS[way](world.key, f"keystore://{world.root}/elsewhere.json#pii"))
    assert "pipecrypt keys new" in caught.value.hint
    assert not (world.root / "elsewhere.json").exists()


@pytest.mark.parametrize("scheme", ["pem", "recipient"])
def test_files_of_keys_are_looked_for_too(scheme: str, world: World) -> None:
    with pytest.raises(AccessError):
        check_keys(Policy({"email": world.key}, also=[f"{scheme}://{world.root}/none.pem"]))


def test_a_key_for_something_else_is_told(world: World, signing: str) -> None:
    for policy in (Policy({"email": signing}), Policy({"email": world.key}, sign=world.key)):
        with pytest.raises(UsageError):
            check_keys(policy)


def test_keys_that_are_there_need_no_secret_and_services_elsewhere_are_not_asked(world: World, signing: str) -> None:
    policy = Policy({"email": world.key}, also=["aws-kms://alias/nobody?region=eu-west-1"], sign=signing)
    check_keys(policy)
    check_keys(replace(policy, also=["vault://127.0.0.1:1/transit/none", "pkcs11:token=none;object=none"]))
