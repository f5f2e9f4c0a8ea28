"""Find which server, mount and key a `vault://` reference names. Talking to the server is left to server.

The id that data files store is `vault/HOST[:PORT]/[NAMESPACE/]MOUNT/KEY`, without the port where it is 8200. HOST is
the one in the reference, or else that of VAULT_ADDR; never the one in the option `address`. A namespace in a path means
to Vault what it means in a header, so two references to one key have one id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipecrypt.errors import KeyReferenceError
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.services.vault.server import VaultAddress, address_from_url, is_this_machine, variable

__all__ = ["VaultPlace", "locate_vault_key"]

_DEFAULT_PORT: Final = 8200
_LOCATION: Final = re.compile(
    r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?)?/(?P<mount>.+)/(?P<key>[^/]+)"
)
# What needs no escape in a URL, and names no place above it.
_PARTS: Final = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*")
_FORM: Final = "write vault://HOST/MOUNT/KEY, or vault:///MOUNT/KEY with the host in VAULT_ADDR"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultPlace:
    """Where a key is.

    Args:
        address: where its server listens.
        namespace: "" for none.
        mount: of the transit engine.
        key: its name.
        id: what data files store.
        text: the key reference.
    """

    address: VaultAddress
    namespace: str
    mount: str
    key: str
    id: str
    text: str

    def path(self, operation: str) -> str:
        """Return the path of an operation with the key, such as `transit/decrypt/pii`."""
        return f"{self.mount}/{operation}/{self.key}"


def locate_vault_key(reference: KeyReference, environ: Mapping[str, str]) -> VaultPlace:
    """Return where the key of a reference is; nothing is asked.

    Raises:
        KeyReferenceError: it lacks a part or has one too many.
        UsageError: VAULT_ADDR or the option `address` is no address.
    """
    reference.check_options("address", "namespace", "tls")
    match = _LOCATION.fullmatch(reference.location)
    if match is None or reference.fragment is not None or not _PARTS.fullmatch(f"{match['mount']}/{match['key']}"):
        raise KeyReferenceError(f"key reference {reference.text} names no key of a Vault server", hint=_FORM)
    namespace = (reference.option("namespace") or variable(environ, "NAMESPACE") or "").strip("/")
    if namespace and not _PARTS.fullmatch(namespace):
        raise KeyReferenceError(f"the namespace for key reference {reference.text} is none")
    known_as = _known_as(match, reference, environ)
    address = reference.option("address")
    return VaultPlace(
        address=known_as if address is None else address_from_url(address, f"the address in {reference.text}"),
        namespace=namespace,
        mount=match["mount"],
        key=match["key"],
        id="/".join(filter(None, ("vault", _shown(known_as), namespace, match["mount"], match["key"]))),
        text=reference.text,
    )


def _known_as(match: re.Match[str], reference: KeyReference, environ: Mapping[str, str]) -> VaultAddress:
    tls = reference.option("tls")
    if tls not in {None, "on", "off"}:
        raise KeyReferenceError(
            f"key reference {reference.text} has tls={tls!a}", hint="write tls=off, or leave it out"
        )
    if match["host"] is None:
        url = variable(environ, "ADDR")
        if url is None:
            raise KeyReferenceError(f"key reference {reference.text} names no server, nor does VAULT_ADDR", hint=_FORM)
        if tls is not None:
            raise KeyReferenceError(f"key reference {reference.text} has tls, which VAULT_ADDR decides", hint=_FORM)
        return address_from_url(url, "VAULT_ADDR")
    host, port = match["host"].strip("[]").lower(), int(match["port"] or _DEFAULT_PORT)
    if not 0 < port < 2**16:
        raise KeyReferenceError(f"key reference {reference.text} has no valid port", hint=_FORM)
    if tls == "off" and reference.option("address") is None and not is_this_machine(host):
        raise KeyReferenceError(
            f"key reference {reference.text} turns TLS off for another machine",
            hint="leave out tls=off; it is for 127.0.0.1 and localhost",
        )
    return VaultAddress(host=host, port=port, tls=tls != "off")


def _shown(address: VaultAddress) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == _DEFAULT_PORT else f"{host}:{address.port}"
