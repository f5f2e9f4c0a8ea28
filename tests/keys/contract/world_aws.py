"""AWS KMS: against our own fake of its wire shape, moto's server and ministack. What the two get wrong is listed."""

from __future__ import annotations

import json
import random
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import boto3
import pytest

from pipecrypt.keys.schemes.aws_kms import AWSKMSService
from pipecrypt.keys.service import KeyServices, MasterKey
from tests.doubles.fake_kms import FakeKMS, kms_action, kms_error
from tests.doubles.http_service import HTTPAnswer, HTTPRequest, HTTPService, forward_to
from tests.keys import emulators
from tests.keys.contract.worlds import Servers, Trouble, World
from tests.keys.patience import fake_patience

REGION = "eu-west-1"
_KEY_ACTIONS = frozenset({"GenerateDataKey", "Decrypt"})


class AWSWorld(World):
    """A server that counts and fails stands before the emulator."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in emulators.AWS_ENVIRONMENT.items():
            patch.setenv(name, value)
        self._service = AWSKMSService(fake_patience())
        self._opened: dict[tuple[AWSKMSService, str], MasterKey] = {}
        self._front = HTTPService(self.handler(), kms_action)
        self.stack.enter_context(_serving(self._front))
        self.arn, self.other_arn = self.make_key(), self.make_key()

    @abstractmethod
    def handler(self) -> Callable[[HTTPRequest], HTTPAnswer]:
        """Return what answers."""

    @abstractmethod
    def make_key(self) -> str:
        """Return the ARN of a fresh key."""

    @abstractmethod
    def spoil_key(self, trouble: Trouble) -> None:
        """Disable the key, or schedule its deletion."""

    @property
    def reference(self) -> str:
        return self._reference(self.arn)

    @property
    def other_reference(self) -> str:
        return self._reference(self.other_arn)

    @property
    def unknown_reference(self) -> str:
        return f"{self._reference('alias/nobody')}&region={REGION}"

    @property
    def secrets(self) -> tuple[str, ...]:
        return emulators.SECRET_ACCESS_KEY, emulators.SESSION_TOKEN

    def open(self, reference: str | None = None) -> MasterKey:
        # Making a client of boto3 is what is slow here. It asks nobody, and an opened key remembers nothing.
        name = (self._service, reference or self.reference)
        if name not in self._opened:
            self._opened[name] = super().open(name[1])
        return self._opened[name]

    def services(self) -> KeyServices:
        return {"aws-kms": self._service}

    def cause(self, trouble: Trouble) -> None:
        chance = random.Random(11)  # noqa: S311 - tests repeat
        throttled = kms_error("ThrottlingException", "You have exceeded the rate at which you may call KMS.")
        if trouble is Trouble.DENIED:
            self._front.trouble = lambda request: kms_error("AccessDeniedException", "User: nobody is not authorized")
        elif trouble in {Trouble.DISABLED, Trouble.DOOMED}:
            self.spoil_key(trouble)
        elif trouble is Trouble.THROTTLED:
            self._front.trouble = lambda request: throttled
        elif trouble is Trouble.HALF_THROTTLED:
            self._front.trouble = lambda request: throttled if chance.random() < 0.5 else None
        elif trouble is Trouble.SLOW:
            self._service = AWSKMSService(fake_patience(answer_seconds=0.05))
            self._front.hold()
        else:
            self._front.stop()

    def garbage(self) -> tuple[Callable[[], None], ...]:
        return tuple(partial(self._answer_always, answer) for answer in self._garbage())

    def calls(self) -> int:
        return sum(count for action, count in self._front.calls.items() if action in _KEY_ACTIONS)

    def _answer_always(self, answer: HTTPAnswer) -> None:
        self._front.trouble = lambda request: answer

    def _garbage(self) -> Iterator[HTTPAnswer]:
        for body in (b"", b"{", b"[]", b"null", b"<html>", b"\xff" * 100, b'{"KeyId": 7}', b"[" * 100_000):
            yield HTTPAnswer(200, body, {"Content-Type": "application/x-amz-json-1.1"})
        whole: dict[str, object] = {"KeyId": self.arn, "Plaintext": _encode(32), "CiphertextBlob": _encode(100)}
        for change in (
            {"KeyId": self.other_arn},
            {"KeyId": None},
            {"KeyId": "alias/pii"},
            {"Plaintext": _encode(16)},
            {"Plaintext": _encode(33)},
            {"Plaintext": ""},
            {"Plaintext": "!"},
            {"Plaintext": None},
        ):
            yield HTTPAnswer(200, json.dumps(whole | change).encode())
        yield HTTPAnswer(200, json.dumps(whole | {"Plaintext": _encode(1), "CiphertextBlob": ""}).encode())
        yield HTTPAnswer(302, b"", {"Location": "http://127.0.0.1:1/"})
        yield HTTPAnswer(400, b'{"__type": "\\u001b[2J"}')
        yield HTTPAnswer(404, b"<html>")
        yield HTTPAnswer(500, b"<html>")
        yield HTTPAnswer(0)

    def _reference(self, name: str) -> str:
        return f"aws-kms://{name}?endpoint={quote(self._front.url, safe='')}"


class FakeKMSWorld(AWSWorld):
    name = "aws-fake"

    def handler(self) -> Callable[[HTTPRequest], HTTPAnswer]:
        self._kms = FakeKMS()
        return self._kms.handle

    def make_key(self) -> str:
        return self._kms.add_key(REGION)

    def spoil_key(self, trouble: Trouble) -> None:
        self._kms.set_state(self.arn, "Disabled" if trouble is Trouble.DISABLED else "PendingDeletion")


class _EmulatorWorld(AWSWorld):
    emulator: ClassVar[Callable[[], Any]]

    def handler(self) -> Callable[[HTTPRequest], HTTPAnswer]:
        self._url = self.servers.start(type(self).emulator)
        self._admin = boto3.client("kms", region_name=REGION, endpoint_url=self._url)
        return forward_to(self._url)

    def make_key(self) -> str:
        arn: str = self._admin.create_key()["KeyMetadata"]["Arn"]
        return arn

    def spoil_key(self, trouble: Trouble) -> None:
        key_id = self.arn.rpartition("/")[2]  # moto fails at ARNs here
        if trouble is Trouble.DISABLED:
            self._admin.disable_key(KeyId=key_id)
        else:
            self._admin.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)


class MotoWorld(_EmulatorWorld):
    name = "aws-moto"
    emulator = emulators.moto
    fakes: ClassVar[Mapping[str, str]] = {
        "test_wrong_key": "moto answers AccessDenied, not IncorrectKey",
        "test_changed_wrapped_keys_are_noticed": "moto answers AccessDenied where the first bytes name no key of it",
        "test_a_disabled_key_gives_none": "disabled keys still work in moto",
        "test_a_key_that_waits_for_deletion_gives_none": "keys that wait for deletion still work in moto",
    }


class MinistackWorld(_EmulatorWorld):
    name = "aws-ministack"
    emulator = emulators.ministack
    fakes: ClassVar[Mapping[str, str]] = {
        "test_wrong_key": "ministack opens with whichever key Decrypt names, and answers nonsense",
        "test_changed_wrapped_keys_are_noticed": "ministack authenticates no ciphertext",
        "test_cut_wrapped_keys_are_noticed": "ministack authenticates no ciphertext",
    }


WORLDS = (FakeKMSWorld, MotoWorld, MinistackWorld)


@contextmanager
def _serving(service: HTTPService) -> Iterator[None]:
    service.start()
    try:
        yield
    finally:
        service.stop()


def _encode(count: int) -> str:
    return b64encode(bytes(count)).decode()
