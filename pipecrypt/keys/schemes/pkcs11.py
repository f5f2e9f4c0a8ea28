"""The key service `pkcs11:`: master keys and signing keys in tokens, such as HSMs and SoftHSM2, by python-pkcs11.

URI form (RFC 7512): `pkcs11:token=LABEL;object=LABEL`, or with `serial=` and `id=`. Attributes of the path, split by
`;`, percent escapes decoded after that: `token`, `manufacturer`, `model`, `serial`, `object`, `id` (bytes), `type`. Of
the query, split by `&`: `module-path`, `pin-source`, and our own `pipecrypt-id`. Others make no sense here and are
refused, so that none is overlooked. `pin-value` is refused too: references stand in errors, logs, configurations and
lists of processes, where a PIN must not be (RFC 7512 6 warns of it).
Extra: `pip install "pipecrypt[pkcs11]"`.
Credentials: the PIN from PIPECRYPT_PKCS11_PIN, the file of `pin-source`, or the prompt. The module from `module-path`
or PIPECRYPT_PKCS11_MODULE; its code runs in this process.
Permissions: CKA_ENCRYPT to write and CKA_DECRYPT to read, for an AES key of 256 bits; CKA_SIGN for a private key on
P-256 or P-384, or RSA, whose public key lies beside it under the same CKA_ID or label. The mechanisms CKM_AES_GCM with
a nonce from the caller, CKM_ECDSA, CKM_SHA256_RSA_PKCS_PSS.

Data files store `pkcs11/<serial number>/<CKA_ID in hexadecimal>`, or `pkcs11/<serial number>/label/<label>` where the
key has no id. `pipecrypt-id` in the reference gives that text for a replica under another serial number. The wrapped
form of a KEK is sealed by the token::

    nonce (12) || ciphertext (32) || tag (16)       AES-256-GCM, random nonce (SP 800-38D 8.2.2), AAD as below

    part(label) || part(master key id) || context.key_binding()      part(x) = length (8 hex digits) || x

A login belongs to a process, not to a session (PKCS #11 v2.40 5.6), so all keys of a token share one, and the last to
go logs out. Libraries are initialized for calls from one thread at a time (5.4), so `_LOCK` is held around all calls. A
process that was forked has to initialize them again (the same section). SoftHSM2 writes the file of a token when
somebody logs in, and who initializes the library just then misses the token. So processes take turns at both, as far as
they know of each other: each locks the module's own file meanwhile.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote_to_bytes

from pipecrypt.crypto.aead import NONCE_BYTES, TAG_BYTES, random_bytes
from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, pem_text
from pipecrypt.errors import (
    ConflictError,
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeyServiceError,
    PassphraseError,
    PipecryptError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.schemes.caller import import_extra
from pipecrypt.keys.service import SealingMasterKey
from pipecrypt.keys.signers import ServiceSigner
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES
from pipecrypt.vocabulary.state import take_lock

__all__ = ["SERVICE", "TokenKey", "TokenMasterKey", "TokenService", "parse_token_key"]

MODULE_VARIABLE: Final = "PIPECRYPT_PKCS11_MODULE"
_SCHEME: Final = "pkcs11"
_WRAPPED_BYTES: Final = NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES
_PSS_SALT_BYTES: Final = 32
_TEXTS: Final = ("token", "manufacturer", "model", "serial", "object", "type")
_ID: Final = "id"
_FORM: Final = "write pkcs11:token=LABEL;object=LABEL, or serial= and id="
_FILE: Final = "file:"
_WRONG_PIN: Final = "the PIN does not open the token"
_PIN_HINT: Final = "set PIPECRYPT_PKCS11_PIN, or name a file with pin-source; tokens lock after some wrong tries"
_TURN_SECONDS: Final = 10.0
_LOCK: Final = threading.RLock()
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """Which key of which token, as a reference says it; None for what it does not say."""

    token: str | None  # its label
    manufacturer: str | None
    model: str | None
    serial: str | None
    label: str | None  # of the key, CKA_LABEL
    key_id: bytes | None  # CKA_ID
    module_path: str | None  # absolute
    pin_source: str | None  # absolute path of a file that holds the PIN
    stored_id: str | None  # what data files store, where this token is a replica of the one that wrote
    text: str  # the reference, for errors


def parse_token_key(reference: KeyReference, *, key_type: str) -> TokenKey:
    """Read a reference.

    Args:
        reference: of the scheme `pkcs11`.
        key_type: "secret-key" or "private": what the caller needs.

    Raises:
        KeyReferenceError: it names no token or no key, or says something that is not understood.
    """
    if any(name == "pin-value" for name, _ in reference.query):
        # The text is not repeated: it holds the PIN.
        raise KeyReferenceError(
            "a pkcs11 key reference holds a PIN",
            hint="remove pin-value, set PIPECRYPT_PKCS11_PIN or give pin-source=FILE",
        )
    reference.check_options("module-path", "pin-source", "pipecrypt-id")
    if reference.fragment is not None:
        raise reference.malformed("has a fragment", hint=_FORM)
    attributes = _split(reference)
    texts = {name: _text(attributes.get(name), name, reference) for name in _TEXTS}
    if texts["type"] not in (None, key_type):
        raise reference.malformed(
            f"names an object of type {texts['type']}", hint=f"leave out type, or give {key_type}"
        )
    if texts["token"] is None and texts["serial"] is None:
        raise reference.malformed("names no token", hint=_FORM)
    if texts["object"] is None and not attributes.get(_ID):
        raise reference.malformed("names no key", hint=_FORM)
    return TokenKey(
        token=texts["token"],
        manufacturer=texts["manufacturer"],
        model=texts["model"],
        serial=texts["serial"],
        label=texts["object"],
        key_id=attributes.get(_ID),
        module_path=_absolute(reference.option("module-path"), "module-path", reference),
        pin_source=_pin_source(reference),
        stored_id=_replica_id(reference),
        text=reference.text,
    )


class TokenMasterKey(SealingMasterKey):
    """A 256-bit AES key in a token. It owns its session, which `wipe` closes. Each seal or opening is one call."""

    __slots__ = ("_key", "_session")

    label = b"pipecrypt pkcs11 kek v1"
    opens_here = False

    def __init__(self, session: _TokenSession, key: Any, key_id: str) -> None:
        """Keep them."""
        super().__init__(key_id)
        self._session = session
        self._key = key

    def wipe(self) -> None:
        """Let go of the token; the last key of this process logs out."""
        self._session.close()

    def _seal(self, key_bytes: bytearray, info: bytes) -> bytes:
        nonce = random_bytes(NONCE_BYTES)
        return nonce + self._session.use(self._key, "encrypt", bytes(key_bytes), **_gcm(nonce, info))

    def _open(self, sealed: bytes, info: bytes) -> bytes:
        if len(sealed) != _WRAPPED_BYTES:
            raise IntegrityError(f"a wrapped key has {_WRAPPED_BYTES} bytes, not {len(sealed)}")
        return self._session.decrypt(self._key, sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], info)


def _sign(session: _TokenSession, key: Any, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
    """Return a signature of `message`; one call to the token."""
    p11 = _package()
    if algorithm is SignatureAlgorithm.RSA_PSS:
        pss = (p11.Mechanism.SHA256, p11.MGF.SHA256, _PSS_SALT_BYTES)
        return session.use(key, "sign", message, mechanism=p11.Mechanism.SHA256_RSA_PKCS_PSS, mechanism_param=pss)
    # Digested here, because CKM_ECDSA is what all tokens have; they return r || s.
    signature = session.use(key, "sign", algorithm.digest(message), mechanism=p11.Mechanism.ECDSA)
    return bytes(p11.util.ec.encode_ecdsa_signature(signature))


class TokenService:
    """The key service of the scheme `pkcs11`."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> TokenMasterKey:
        """Log in, and find a master key.

        Raises:
            KeyReferenceError: the reference is not one of RFC 7512, or holds a PIN.
            MissingExtraError: python-pkcs11 is not installed.
            KeyNotFoundError: the token or the key is missing.
            UsageError: several tokens or keys fit, or the key is not an AES key of 256 bits.
            PassphraseError: the PIN is missing, wrong or locked.
            KeyServiceError: the module cannot be loaded, or the token failed.
        """
        wanted = parse_token_key(reference, key_type="secret-key")
        session = _open_token(wanted, credentials)
        try:
            attribute = _package().Attribute
            key = session.find_key(wanted, private=False)
            kind, size = (session.attribute(key, name) for name in (attribute.KEY_TYPE, attribute.VALUE_LEN))
            if kind != _package().KeyType.AES or size != DATA_KEY_BYTES:
                raise UsageError(
                    f"{wanted.text} is not an AES key of 256 bits", hint="make one in the token, or name another"
                )
            return TokenMasterKey(session, key, wanted.stored_id or _stored_id(session, key, wanted))
        except BaseException:
            session.close()
            raise

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> ServiceSigner:
        """Log in, and find a private key and its public half; errors as in `open_key`."""
        wanted = parse_token_key(reference, key_type="private")
        session = _open_token(wanted, credentials)
        try:
            key = session.find_key(wanted, private=True)
            public_key = _public_key(session, key, wanted)
            return ServiceSigner(public_key, partial(_sign, session, key, public_key.algorithm), session.close)
        except BaseException:
            session.close()
            raise


SERVICE: Final = TokenService()


@dataclass(slots=True)
class _Login:
    session: Any
    pin: bytes | None = field(repr=False)
    process: int
    users: int = 0


_LOGINS: Final[dict[tuple[str, str], _Login]] = {}  # by module and serial number
_LOADED: Final[dict[str, int]] = {}  # module -> the process that initialized it


class _TokenSession:
    """This process's login to a token, for one user of it.

    Each method makes one call to the token. It raises KeyServiceError where the token failed or refused.
    """

    __slots__ = ("_login", "_name", "serial")

    def __init__(self, login: _Login, serial: str, name: str) -> None:
        self._login: _Login | None = login
        self._name = name
        self.serial: Final = serial
        login.users += 1

    def find_key(self, wanted: TokenKey, *, private: bool) -> Any:
        """Return the one key of the token that a reference names: a secret key, or a private one."""
        p11 = _package()
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
        attribute = _package().Attribute
        wanted = ((attribute.CLASS, kind), (attribute.LABEL, label), (attribute.ID, key_id))
        return self.call(lambda session: list(session.get_objects({name: it for name, it in wanted if it is not None})))

    def attribute(self, key: Any, attribute: Any) -> Any:
        """Return an attribute of an object, or None where the token does not tell."""
        p11 = _package()

        def read(_: Any) -> Any:
            try:
                return key[attribute]
            except (p11.AttributeTypeInvalid, p11.AttributeSensitive):
                return None

        return self.call(read)

    def use(self, key: Any, power: str, data: bytes, **parameters: Any) -> bytes:
        """Return what a key makes of some bytes by one of its powers, such as encrypt."""
        self._check_power(key, power)
        return bytes(self.call(lambda _: getattr(key, power)(data, **parameters)))

    def decrypt(self, key: Any, nonce: bytes, sealed: bytes, associated_data: bytes) -> bytes:
        """Return the plaintext of ciphertext || tag under AES-GCM.

        Raises:
            IntegrityError: key, nonce, associated data and ciphertext do not belong together.
        """
        p11 = _package()
        self._check_power(key, "decrypt")

        def attempt(_: Any) -> bytes | None:
            try:
                return bytes(key.decrypt(sealed, **_gcm(nonce, associated_data)))
            # What a wrong tag is called differs among tokens: SoftHSM2 answers CKR_GENERAL_ERROR.
            except (p11.EncryptedDataInvalid, p11.EncryptedDataLenRange, p11.GeneralError, p11.FunctionFailed):
                return None

        opened = self.call(attempt)
        if opened is None:
            self._check_works(key)
            raise IntegrityError("authentication failed")
        return opened

    def close(self) -> None:
        """Let go of the login; the last user logs out. Safe to call twice."""
        with _LOCK:
            login, self._login = self._login, None
            if login is None:
                return
            login.users -= 1
            if login.users == 0:
                _forget(login)
                if login.process == os.getpid():
                    with contextlib.suppress(_package().PKCS11Error):  # a token that is gone is logged out
                        login.session.close()

    def call(self, call: Callable[[Any], _Result]) -> _Result:
        """Return what a function of python-pkcs11 returns, given the session of this login."""
        p11 = _package()
        with _LOCK, _mapped(self._name):
            if self._login is None:
                raise RuntimeError("this key was wiped")
            try:
                return call(self._login.session)
            except (p11.SessionHandleInvalid, p11.SessionClosed, p11.DeviceRemoved, p11.UserNotLoggedIn):
                _forget(self._login)  # who opens the key next logs in anew
                raise

    def _check_power(self, key: Any, power: str) -> None:
        # python-pkcs11 gives an object the methods that its attributes allow.
        if not hasattr(key, power):
            raise KeyServiceError(
                f"{self._name}: the token does not let this key {power}", hint=f"make a key with CKA_{power.upper()}"
            )

    def _check_works(self, key: Any) -> None:
        """Pass if the token opens what it seals now; without, a failing token would pass for changed data."""
        nonce, plaintext = random_bytes(NONCE_BYTES), bytes(NONCE_BYTES)
        sealed = self.use(key, "encrypt", plaintext, **_gcm(nonce, b""))
        if self.call(lambda _: bytes(key.decrypt(sealed, **_gcm(nonce, b"")))) != plaintext:
            raise KeyServiceError(f"{self._name}: the token does not open what it seals", hint="check the token")


def _open_token(wanted: TokenKey, credentials: Credentials) -> _TokenSession:
    """Log in to the token that a reference names."""
    path = wanted.module_path or credentials.environ.get(MODULE_VARIABLE)
    if not path or not path.startswith("/"):
        raise UsageError(
            f"{wanted.text}: no PKCS#11 module is named",
            hint=f"set {MODULE_VARIABLE}, or module-path in the reference, to its absolute path",
        )
    with _LOCK, _mapped(wanted.text), _take_turns(path):
        token = _find_token(_load_library(path, wanted.text), wanted)
        serial = token.serial.decode(errors="replace").strip()
        login = _LOGINS.get((path, serial))
        if login is None or login.process != os.getpid():
            login = _LOGINS[path, serial] = _log_in(token, wanted, credentials)
        elif login.pin is not None and not hmac.compare_digest(_pin(wanted, credentials).encode(), login.pin):
            # The token would not look at the PIN, for this process is logged in; and so this costs no try.
            raise PassphraseError(f"{wanted.text}: {_WRONG_PIN}", hint=_PIN_HINT)
        return _TokenSession(login, serial, wanted.text)


def _find_token(library: Any, wanted: TokenKey) -> Any:
    p11 = _package()
    names = {"label": wanted.token, "manufacturer_id": wanted.manufacturer, "model": wanted.model}
    tokens = [
        token
        for token in library.get_tokens()
        if token.flags & p11.TokenFlag.TOKEN_INITIALIZED
        and all(value in (None, getattr(token, name)) for name, value in names.items())
        and wanted.serial in (None, token.serial.decode(errors="replace").strip())
    ]
    if len(tokens) != 1:
        raise p11.MultipleTokensReturned if tokens else p11.NoSuchToken
    return tokens[0]


def _log_in(token: Any, wanted: TokenKey, credentials: Credentials) -> _Login:
    p11 = _package()
    flags, flag = token.flags, p11.TokenFlag
    if not flags & flag.LOGIN_REQUIRED:
        return _Login(token.open(), None, os.getpid())
    if flags & flag.PROTECTED_AUTHENTICATION_PATH:
        return _Login(token.open(user_pin=p11.PROTECTED_AUTH), None, os.getpid())
    if flags & flag.USER_PIN_LOCKED:
        raise PassphraseError(f"{wanted.text}: the PIN of the token is locked", hint="ask its security officer")
    if flags & flag.USER_PIN_FINAL_TRY:
        # Several workers try at once, and a job that is wrong tries again tomorrow: the last try is a person's.
        raise PassphraseError(
            f"{wanted.text}: one wrong PIN more locks the token", hint="log in by hand once, which counts anew"
        )
    pin = _pin(wanted, credentials)
    try:
        return _Login(token.open(user_pin=pin), pin.encode(), os.getpid())
    except p11.UserAlreadyLoggedIn:
        # Another part of this process is, by the same library.
        return _Login(token.open(), None, os.getpid())


def _pin(wanted: TokenKey, credentials: Credentials) -> str:
    return credentials.pin(f"PIN of token {wanted.token or wanted.serial}", wanted.pin_source)


def _forget(login: _Login) -> None:
    for place in [place for place, known in _LOGINS.items() if known is login]:
        del _LOGINS[place]


def _package() -> ModuleType:
    return import_extra("in tokens", "the package python-pkcs11", _SCHEME, "pkcs11")[0]


def _load_library(path: str, name: str) -> Any:
    """Load and initialize a PKCS #11 module, once in each process. `_LOCK` is held."""
    p11 = _package()
    try:
        library = p11.lib(path)
        if _LOADED.setdefault(path, os.getpid()) != os.getpid():
            library.reinitialize()
            _LOADED[path] = os.getpid()
    except p11.PKCS11Error as error:
        raise KeyServiceError(
            f"{name}: the PKCS#11 module {path} cannot be loaded",
            hint="check its path, and the module's own configuration",
        ) from error
    return library


@contextmanager
def _take_turns(path: str) -> Iterator[None]:
    """Wait until no other process of ours logs in by the module `path`, and let them wait meanwhile.

    Nothing but SoftHSM2's races depends on it, so a lock that cannot be had, or is held too long, is done without.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield  # who loads it tells why
        return
    try:
        with contextlib.suppress(ConflictError, OSError):
            take_lock(descriptor, path, wait_seconds=_TURN_SECONDS)
        yield
    finally:
        os.close(descriptor)  # drops the lock


@contextmanager
def _mapped(name: str) -> Iterator[None]:
    """Turn errors of the token into ours. `name`: the key reference."""
    p11 = _package()
    try:
        yield
    except p11.PKCS11Error as error:
        raise _ours(p11, error, name) from error


def _ours(p11: ModuleType, error: Exception, name: str) -> PipecryptError:
    if isinstance(error, p11.PinIncorrect | p11.PinInvalid | p11.PinLenRange):
        return PassphraseError(f"{name}: {_WRONG_PIN}", hint=_PIN_HINT)
    if isinstance(error, p11.PinLocked | p11.PinExpired):
        return PassphraseError(f"{name}: the PIN of the token is locked or expired", hint="ask its security officer")
    if isinstance(error, p11.NoSuchToken | p11.TokenNotPresent | p11.TokenNotRecognised | p11.DeviceRemoved):
        hint = "check token and serial, and that it is plugged in"
        return KeyNotFoundError(f"{name}: there is no such token", hint=hint)
    if isinstance(error, p11.MultipleTokensReturned):
        return UsageError(f"{name}: several tokens fit", hint="add serial= to the reference")
    # The text of the library's errors may hold anything; its class is one of a closed list.
    return KeyServiceError(
        f"{name}: the token failed or refused: {type(error).__name__}",
        hint="check that the key allows the operation (CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN), and the token itself",
    )


def _gcm(nonce: bytes, associated_data: bytes) -> dict[str, Any]:
    p11 = _package()
    return {
        "mechanism": p11.Mechanism.AES_GCM,
        "mechanism_param": p11.GCMParams(nonce, associated_data, TAG_BYTES * 8),
    }


def _stored_id(session: _TokenSession, key: Any, wanted: TokenKey) -> str:
    key_id = session.attribute(key, _package().Attribute.ID)
    place = key_id.hex() if key_id else f"label/{quote(str(wanted.label), safe='')}"
    return f"{_SCHEME}/{quote(session.serial, safe='')}/{place}"


def _public_key(session: _TokenSession, key: Any, wanted: TokenKey) -> PublicKey:
    # Whatever the token says is checked by who asked for a signature: it has to fit this public key.
    p11 = _package()
    key_id = session.attribute(key, p11.Attribute.ID)
    label = None if key_id else wanted.label
    found = session.find(p11.ObjectClass.PUBLIC_KEY, label=label, key_id=key_id or None)
    if len(found) != 1:
        raise KeyNotFoundError(
            f"{wanted.text}: the token has no public key, or several, beside the private one",
            hint="store the public key under the same CKA_ID",
        )
    kind = session.attribute(key, p11.Attribute.KEY_TYPE)
    if kind == p11.KeyType.RSA:
        return PublicKey(
            pem_text("RSA PUBLIC KEY", session.call(lambda _: p11.util.rsa.encode_rsa_public_key(found[0])))
        )
    if kind == p11.KeyType.EC:
        der = session.call(lambda _: bytes(p11.util.ec.encode_ec_public_key(found[0])))
        return PublicKey(pem_text("PUBLIC KEY", der))
    raise UsageError(f"{wanted.text} is of an algorithm that signs nothing here", hint="use P-256, P-384 or RSA")


def _split(reference: KeyReference) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    for part in reference.location.split(";"):
        name, equals, value = part.partition("=")
        if not equals or name not in (*_TEXTS, _ID):
            raise reference.malformed(f"has an attribute that is not known here: {name!a}", hint=_FORM)
        if name in attributes:  # RFC 7512 2.3
            raise reference.malformed(f"gives {name} twice", hint=f"give {name} once")
        decoded = unquote_to_bytes(value)
        # Decoding leaves malformed escapes as they are, so a % beyond the encoded ones tells.
        if decoded.count(b"%") != value.lower().count("%25"):
            raise reference.malformed("has a malformed % escape", hint="write % itself as %25")
        attributes[name] = decoded
    return attributes


def _text(value: bytes | None, name: str, reference: KeyReference) -> str | None:
    if value is None:
        return None
    text = value.decode(errors="surrogateescape")
    if not text or not text.isprintable():  # surrogates are not
        raise reference.malformed(f"has no valid {name}", hint=_FORM)
    return text


def _pin_source(reference: KeyReference) -> str | None:
    source = reference.option("pin-source")
    if source is not None and source.startswith(_FILE):
        path = source.removeprefix(_FILE)
        source = path.removeprefix("//") if path.startswith("///") else path
    return _absolute(source, "pin-source", reference)


def _replica_id(reference: KeyReference) -> str | None:
    stored_id = reference.option("pipecrypt-id")
    if stored_id is not None and not stored_id.startswith(f"{_SCHEME}/"):
        raise reference.malformed(
            "has no id of a key in a token as its pipecrypt-id",
            hint="pipecrypt inspect shows the ids that a file needs",
        )
    return stored_id


def _absolute(path: str | None, name: str, reference: KeyReference) -> str | None:
    # A command as the source of a PIN (RFC 7512 2.4) is not run: a key reference should not be a program.
    if path is not None and not path.startswith("/"):
        raise reference.malformed(f"has no absolute path as its {name}", hint=f"write {name}=/path")
    return path
