"""Read the references of keys in tokens, URIs of RFC 7512. Finding the key, and logging in, are left to token.

Attributes of the path, split by `;`, percent escapes decoded after that: `token`, `manufacturer`, `model`, `serial`,
`object`, `id` (bytes), `type`. Of the query, split by `&`: `module-path`, `pin-source`, and our own `pipecrypt-id`.
Others make no sense here and are refused, so that none is overlooked. `pin-value` is refused too: references stand in
errors, logs, configurations and lists of processes, where a PIN must not be (RFC 7512 6 warns of it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from pipecrypt.errors import KeyReferenceError
from pipecrypt.keys.reference import KeyReference

__all__ = ["TokenKey", "parse_token_key"]

_TEXTS: Final = ("token", "manufacturer", "model", "serial", "object", "type")
_ID: Final = "id"
_QUERY: Final = ("module-path", "pin-source", "pipecrypt-id")
_FORM: Final = "write pkcs11:token=LABEL;object=LABEL, or serial= and id="
_FILE: Final = "file:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """Which key of which token, as a reference says it; None for what it does not say.

    Args:
        token: the token's label.
        manufacturer: who made the token.
        model: of the token.
        serial: the token's serial number.
        label: the key's CKA_LABEL.
        key_id: the key's CKA_ID.
        type: "secret-key", "private" or None.
        module_path: of the library that speaks to the token; absolute.
        pin_source: path of a file that holds the PIN; absolute.
        stored_id: what data files store, where this token is a replica of the one that wrote.
        text: the reference, for errors.
    """

    token: str | None
    manufacturer: str | None
    model: str | None
    serial: str | None
    label: str | None
    key_id: bytes | None
    type: str | None
    module_path: str | None
    pin_source: str | None
    stored_id: str | None
    text: str


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
    reference.check_options(*_QUERY)
    if reference.fragment is not None:
        raise KeyReferenceError(f"key reference {reference.text} has a fragment", hint=_FORM)
    attributes = _split(reference)
    texts = {name: _text(attributes.get(name), name, reference) for name in _TEXTS}
    if texts["type"] not in (None, key_type):
        raise KeyReferenceError(
            f"key reference {reference.text} names an object of type {texts['type']}",
            hint=f"leave out type, or give {key_type}",
        )
    if texts["token"] is None and texts["serial"] is None:
        raise KeyReferenceError(f"key reference {reference.text} names no token", hint=_FORM)
    if texts["object"] is None and not attributes.get(_ID):
        raise KeyReferenceError(f"key reference {reference.text} names no key", hint=_FORM)
    return TokenKey(
        token=texts["token"],
        manufacturer=texts["manufacturer"],
        model=texts["model"],
        serial=texts["serial"],
        label=texts["object"],
        key_id=attributes.get(_ID),
        type=texts["type"],
        module_path=_absolute(reference.option("module-path"), "module-path", reference),
        pin_source=_pin_source(reference),
        stored_id=_stored_id(reference),
        text=reference.text,
    )


def _split(reference: KeyReference) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    for part in reference.location.split(";"):
        name, equals, value = part.partition("=")
        if not equals or name not in (*_TEXTS, _ID):
            raise KeyReferenceError(
                f"key reference {reference.text} has an attribute that is not known here: {name!a}", hint=_FORM
            )
        if name in attributes:  # RFC 7512 2.3
            raise KeyReferenceError(f"key reference {reference.text} gives {name} twice", hint=f"give {name} once")
        attributes[name] = _decode(value, reference)
    return attributes


def _decode(value: str, reference: KeyReference) -> bytes:
    decoded = unquote_to_bytes(value)
    # Decoding leaves malformed escapes as they are, so a % beyond the encoded ones tells.
    if decoded.count(b"%") != value.lower().count("%25"):
        raise KeyReferenceError(
            f"key reference {reference.text} has a malformed % escape", hint="write % itself as %25"
        )
    return decoded


def _text(value: bytes | None, name: str, reference: KeyReference) -> str | None:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise KeyReferenceError(f"key reference {reference.text} has no valid {name}", hint=_FORM)
    return text


def _pin_source(reference: KeyReference) -> str | None:
    source = reference.option("pin-source")
    if source is None or not source.startswith(_FILE):
        return _absolute(source, "pin-source", reference)
    path = source.removeprefix(_FILE)
    return _absolute(path.removeprefix("//") if path.startswith("///") else path, "pin-source", reference)


def _stored_id(reference: KeyReference) -> str | None:
    stored_id = reference.option("pipecrypt-id")
    if stored_id is not None and not stored_id.startswith("pkcs11/"):
        raise KeyReferenceError(
            f"key reference {reference.text} has no id of a key in a token as its pipecrypt-id",
            hint="pipecrypt inspect shows the ids that a file needs",
        )
    return stored_id


def _absolute(path: str | None, name: str, reference: KeyReference) -> str | None:
    # A command as the source of a PIN (RFC 7512 2.4) is not run: a key reference should not be a program.
    if path is not None and not path.startswith("/"):
        raise KeyReferenceError(
            f"key reference {reference.text} has no absolute path as its {name}", hint=f"write {name}=/path"
        )
    return path
