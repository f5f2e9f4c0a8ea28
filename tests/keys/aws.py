"""An account of AWS on this machine for tests: the fake KMS behind a server that counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.schemes.aws_kms import AWSKMSService
from pipecrypt.keys.service import KeyServices, MasterKey, open_key_reference
from pipecrypt.keys.session import KeySession
from tests.doubles.fake_kms import FakeKMS, kms_error
from tests.doubles.http_service import HTTPAnswer, HTTPRequest, HTTPService
from tests.keys.patience import fake_patience

REGION, FAR_REGION = "eu-west-1", "us-east-1"


@dataclass(frozen=True)
class AWS:
    kms: FakeKMS
    server: HTTPService
    service: AWSKMSService = field(default_factory=lambda: AWSKMSService(fake_patience()))

    @property
    def services(self) -> KeyServices:
        return {"aws-kms": self.service}

    def reference(self, name: str, **options: str) -> str:
        options = {"endpoint": self.server.url} | options
        query = "&".join(f"{option}={quote(value, safe='')}" for option, value in options.items())
        return f"aws-kms://{name}?{query}"

    def new_key(self, *regions: str, **options: str) -> str:
        return self.reference(self.kms.add_key(*(regions or (REGION,)), **options))

    def open(self, reference: str) -> MasterKey:
        opened = open_key_reference(reference, Credentials({}), services=self.services)
        assert isinstance(opened, MasterKey)
        return opened

    def session(self, *references: str, dataset_id: str | None = None) -> KeySession:
        return KeySession(references, credentials=Credentials({}), services=self.services, dataset_id=dataset_id)

    def fail(self, code: str, message: str = "", *, status: int = 400, action: str | None = None) -> None:
        error = kms_error(code, message, status=status)
        self.server.trouble = lambda request: error if action in {None, asked_action(request)} else None

    def change_answers(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        def changed(request: HTTPRequest) -> HTTPAnswer:
            return HTTPAnswer(200, json.dumps(change(json.loads(self.kms.handle(request).body))).encode())

        self.server.trouble = changed


def asked_action(request: HTTPRequest) -> str:
    return request.headers["x-amz-target"].rpartition(".")[2]
