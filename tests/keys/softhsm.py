"""SoftHSM2 with tokens of this process's own: PKCS #11 modules read their configuration once in each process."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.schemes import pkcs11

PIN, OTHER_PIN = "48151623", "99999999"
TOKEN, REPLICA, TWINS = "pipecrypt", "replica", "twins"
_MODULES = (
    os.environ.get("PIPECRYPT_TEST_SOFTHSM", ""),
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
_CONFIGURATION = "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n"


@dataclass(frozen=True)
class Tokens:
    """A module, and keys in its tokens."""

    module: str

    @property
    def environ(self) -> dict[str, str]:
        return {"PIPECRYPT_PKCS11_MODULE": self.module, "PIPECRYPT_PKCS11_PIN": PIN}

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.environ)

    def make_key(
        self, label: str, key_id: bytes = b"", *, bits: int = 256, token: str = TOKEN, **template: Any
    ) -> None:
        with _writing(self, token) as session:
            session.generate_key(
                pkcs11._package().KeyType.AES, bits, label=label, id=key_id or None, store=True, **template
            )

    def import_key(self, label: str, key_id: bytes, value: bytes, *, token: str = TOKEN) -> None:
        p11 = pkcs11._package()
        attribute = p11.Attribute
        with _writing(self, token) as session:
            session.create_object(
                {
                    attribute.CLASS: p11.ObjectClass.SECRET_KEY,
                    attribute.KEY_TYPE: p11.KeyType.AES,
                    attribute.TOKEN: True,
                    attribute.LABEL: label,
                    attribute.ID: key_id,
                    attribute.VALUE: value,
                    attribute.ENCRYPT: True,
                    attribute.DECRYPT: True,
                }
            )

    def make_ec_pair(self, label: str, key_id: bytes, curve: str) -> None:
        p11 = pkcs11._package()
        with _writing(self, TOKEN) as session:
            parameters = {p11.Attribute.EC_PARAMS: p11.util.ec.encode_named_curve_parameters(curve)}
            session.create_domain_parameters(p11.KeyType.EC, parameters, local=True).generate_keypair(
                label=label, id=key_id, store=True
            )

    def make_rsa_pair(self, label: str, key_id: bytes) -> None:
        with _writing(self, TOKEN) as session:
            session.generate_keypair(pkcs11._package().KeyType.RSA, 2048, label=label, id=key_id, store=True)

    def destroy(self, label: str, *, only: Any = None) -> None:
        with _writing(self, TOKEN) as session:
            for found in list(session.get_objects({pkcs11._package().Attribute.LABEL: label})):
                if only is None or found.object_class == only:
                    found.destroy()


def softhsm() -> Tokens:
    """Return the tokens of this process, or skip where SoftHSM2 or python-pkcs11 is not installed."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    tokens = _tokens()
    if tokens is None:
        pytest.skip("SoftHSM2 is not installed: apt-get install softhsm2")
    return tokens


def log_out() -> None:
    """End the logins of keys that a test did not wipe."""
    for login in pkcs11._LOGINS.values():
        login.session.close()
    pkcs11._LOGINS.clear()


@lru_cache
def _tokens() -> Tokens | None:
    module = next((path for path in _MODULES if path and Path(path).exists()), None)
    tool = shutil.which("softhsm2-util")
    if module is None or tool is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="pipecrypt-softhsm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(_CONFIGURATION.format(folder / "tokens"))
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    for label in (TOKEN, REPLICA, TWINS, TWINS):
        command = [tool, "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "87654321"]
        subprocess.run(command, check=True, capture_output=True)
    return Tokens(module)


def _writing(tokens: Tokens, label: str) -> Any:
    token = pkcs11._package().lib(tokens.module).get_token(token_label=label)
    try:
        return token.open(rw=True, user_pin=PIN)
    except (
        pkcs11._package().UserAlreadyLoggedIn
    ):  # by keys that a test holds, which closing this session leaves logged in
        return token.open(rw=True)
