"""Find keys in tokens, log in, and let tokens encrypt, decrypt and sign. Layouts and ids are left to service.

A login belongs to a process, not to a session (PKCS #11 v2.40 5.6), so all keys of a token share one, and the last to
go logs out.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pipecrypt.crypto.aead import NONCE_BYTES, TAG_BYTES, random_bytes
from pipecrypt.errors import IntegrityError, KeyNotFoundError, KeyServiceError, PassphraseError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.services.pkcs11.library import LOCK, load_library, mapped, package, take_turns, wrong_pin
from pipecrypt.keys.services.pkcs11.uri import TokenKey

__all__ = ["MODULE_VARIABLE", "TokenSession", "open_token"]

MODULE_VARIABLE: Final = "PIPECRYPT_PKCS11_MODULE"
_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Login:
    session: Any
    pin: bytes | None = field(repr=False)
    process: int
    users: int = 0


_LOGINS: Final[dict[tuple[str, str], _Login]] = {}  # by module and serial number


class TokenSession:
    """This process's login to a token, for one user of it.

    Args:
        login: shared with other users.
        place: module and serial number.
        name: the key reference, for errors.
    """

    __slots__ = ("_login", "_name", "_place", "serial")

    def __init__(self, login: _Login, place: tuple[str, str], name: str) -> None:
        """Count as a user."""
        self._login: _Login | None = login
        self._place = place
        self._name = name
        self.serial: Final = place[1]
        login.users += 1

    def find_key(self, wanted: TokenKey, *, private: bool) -> Any:
        """Return the one key of the token that a reference names: a secret key, or a private one.

        Raises:
            KeyNotFoundError: there is none.
            UsageError: there are several, or another one has its CKA_ID.
            KeyServiceError: the token failed.
        """
        p11 = package()
        kind = p11.ObjectClass.PRIVATE_KEY if private else p11.ObjectClass.SECRET_KEY
        found = self.find(kind, label=wanted.label, key_id=wanted.key_id)
        if not found:
            raise KeyNotFoundError(
                f"{wanted.text}: the token has no such {'private' if private else 'secret'} key",
                hint="check object and id; pkcs11-tool --login --list-objects lists what there is",
            )
        key_id = self.attribute(found[0], p11.Attribute.ID)
        if len(found) > 1 or (key_id and len(self.find(kind, label=None, key_id=key_id)) > 1):
            raise UsageError(
                f"{wanted.text}: several keys of the token fit, or share one CKA_ID",
                hint="name it by id, and give each key an id of its own",
            )
        return found[0]

    def find(self, kind: Any, *, label: str | None, key_id: bytes | None) -> list[Any]:
        """Return the objects of a class with a label, an id, or both."""
        attribute = package().Attribute
        template = {attribute.CLASS: kind, attribute.LABEL: label, attribute.ID: key_id}
        given = {name: value for name, value in template.items() if value is not None}
        return self._call(lambda session: list(session.get_objects(given)))

    def attribute(self, key: Any, attribute: Any) -> Any:
        """Return an attribute of an object, or None where the token does not tell."""
        p11 = package()

        def read(_: Any) -> Any:
            try:
                return key[attribute]
            except (p11.AttributeTypeInvalid, p11.AttributeSensitive):
                return None

        return self._call(read)

    def read(self, read: Callable[[], bytes]) -> bytes:
        """Return what a function of python-pkcs11 reads from objects of this token."""
        return self._call(lambda _: bytes(read()))

    def encrypt(self, key: Any, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """Return ciphertext || tag under AES-GCM.

        Raises:
            KeyServiceError: the token failed, or the key may not encrypt.
        """
        self._check_power(key, "encrypt")
        return bytes(self._call(lambda _: key.encrypt(plaintext, **_gcm(nonce, associated_data))))

    def decrypt(self, key: Any, nonce: bytes, sealed: bytes, associated_data: bytes) -> bytes:
        """Return the plaintext of ciphertext || tag under AES-GCM.

        Raises:
            IntegrityError: key, nonce, associated data and ciphertext do not belong together.
            KeyServiceError: the token failed, or the key may not decrypt.
        """
        p11 = package()
        self._check_power(key, "decrypt")

        def attempt(_: Any) -> bytes | None:
            try:
                return bytes(key.decrypt(sealed, **_gcm(nonce, associated_data)))
            # What a wrong tag is called differs among tokens: SoftHSM2 answers CKR_GENERAL_ERROR.
            except (p11.EncryptedDataInvalid, p11.EncryptedDataLenRange, p11.GeneralError, p11.FunctionFailed):
                return None

        opened = self._call(attempt)
        if opened is None:
            self._check_works(key)
            raise IntegrityError("authentication failed")
        return opened

    def sign(self, key: Any, message: bytes, mechanism: Any, parameters: Any = None) -> bytes:
        """Return what the token makes of `message`.

        Raises:
            KeyServiceError: the token failed, or the key may not sign.
        """
        self._check_power(key, "sign")
        return bytes(self._call(lambda _: key.sign(message, mechanism=mechanism, mechanism_param=parameters)))

    def close(self) -> None:
        """Let go of the login; the last user logs out. Safe to call twice."""
        with LOCK:
            login, self._login = self._login, None
            if login is None:
                return
            login.users -= 1
            if login.users == 0:
                _forget(login)
                if login.process == os.getpid():
                    with contextlib.suppress(package().PKCS11Error):  # a token that is gone is logged out
                        login.session.close()

    def _check_power(self, key: Any, power: str) -> None:
        # python-pkcs11 gives an object the methods that its attributes allow.
        if not hasattr(key, power):
            raise KeyServiceError(
                f"{self._name}: the token does not let this key {power}", hint=f"make a key with CKA_{power.upper()}"
            )

    def _check_works(self, key: Any) -> None:
        """Pass if the token opens what it seals now; without, a failing token would pass for changed data.

        Raises:
            KeyServiceError: it does not.
        """
        nonce, plaintext = random_bytes(NONCE_BYTES), bytes(NONCE_BYTES)
        sealed = self.encrypt(key, nonce, plaintext, b"")
        if self._call(lambda _: bytes(key.decrypt(sealed, **_gcm(nonce, b"")))) != plaintext:
            raise KeyServiceError(f"{self._name}: the token does not open what it seals", hint="check the token")

    def _call(self, call: Callable[[Any], _Result]) -> _Result:
        p11 = package()
        with LOCK, mapped(self._name):
            if self._login is None:
                raise RuntimeError("this key was wiped")
            try:
                return call(self._login.session)
            except (p11.SessionHandleInvalid, p11.SessionClosed, p11.DeviceRemoved, p11.UserNotLoggedIn):
                _forget(self._login)  # who opens the key next logs in anew
                raise


def open_token(wanted: TokenKey, credentials: Credentials) -> TokenSession:
    """Log in to the token that a reference names.

    Raises:
        MissingExtraError: python-pkcs11 is not installed.
        UsageError: no module is named, or several tokens fit.
        KeyNotFoundError: there is no such token.
        PassphraseError: the PIN is missing, wrong or locked, or one try is left.
        KeyServiceError: the module cannot be loaded, or the token failed.
    """
    path = wanted.module_path or credentials.environ.get(MODULE_VARIABLE)
    if not path or not path.startswith("/"):
        raise UsageError(
            f"{wanted.text}: no PKCS#11 module is named",
            hint=f"set {MODULE_VARIABLE}, or module-path in the reference, to its absolute path",
        )
    with LOCK, mapped(wanted.text), take_turns(path):
        token = _find_token(load_library(path, wanted.text), wanted)
        place = (path, token.serial.decode(errors="replace").strip())
        login = _LOGINS.get(place)
        if login is None or login.process != os.getpid():
            login = _LOGINS[place] = _log_in(token, wanted, credentials)
        elif login.pin is not None and not hmac.compare_digest(_pin(wanted, credentials).encode(), login.pin):
            # The token would not look at the PIN, for this process is logged in; and so this costs no try.
            raise wrong_pin(wanted.text)
        return TokenSession(login, place, wanted.text)


def _find_token(library: Any, wanted: TokenKey) -> Any:
    p11 = package()
    names = {"label": wanted.token, "manufacturer_id": wanted.manufacturer, "model": wanted.model}
    tokens = [
        token
        for token in library.get_tokens()
        if token.flags & p11.TokenFlag.TOKEN_INITIALIZED
        and all(value in (None, getattr(token, name)) for name, value in names.items())
        and wanted.serial in (None, token.serial.decode(errors="replace").strip())
    ]
    if not tokens:
        raise p11.NoSuchToken
    if len(tokens) > 1:
        raise p11.MultipleTokensReturned
    return tokens[0]


def _log_in(token: Any, wanted: TokenKey, credentials: Credentials) -> _Login:
    p11 = package()
    flags = token.flags
    if not flags & p11.TokenFlag.LOGIN_REQUIRED:
        return _Login(token.open(), None, os.getpid())
    if flags & p11.TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        return _Login(token.open(user_pin=p11.PROTECTED_AUTH), None, os.getpid())
    _check_tries(flags, wanted)
    pin = _pin(wanted, credentials)
    try:
        return _Login(token.open(user_pin=pin), pin.encode(), os.getpid())
    except p11.UserAlreadyLoggedIn:
        # Another part of this process is, by the same library.
        return _Login(token.open(), None, os.getpid())


def _check_tries(flags: Any, wanted: TokenKey) -> None:
    flag = package().TokenFlag
    if flags & flag.USER_PIN_LOCKED:
        raise PassphraseError(f"{wanted.text}: the PIN of the token is locked", hint="ask its security officer")
    if flags & flag.USER_PIN_FINAL_TRY:
        # Several workers try at once, and a job that is wrong tries again tomorrow: the last try is a person's.
        raise PassphraseError(
            f"{wanted.text}: one wrong PIN more locks the token", hint="log in by hand once, which counts anew"
        )


def _pin(wanted: TokenKey, credentials: Credentials) -> str:
    return credentials.pin(f"PIN of token {wanted.token or wanted.serial}", wanted.pin_source)


def _gcm(nonce: bytes, associated_data: bytes) -> dict[str, Any]:
    p11 = package()
    return {
        "mechanism": p11.Mechanism.AES_GCM,
        "mechanism_param": p11.GCMParams(nonce, associated_data, TAG_BYTES * 8),
    }


def _forget(login: _Login) -> None:
    for place, known in list(_LOGINS.items()):
        if known is login:
            del _LOGINS[place]
