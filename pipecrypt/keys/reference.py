"""Key references: one URI syntax for every key, whatever its scheme means.

Forms (RFC 3986 without its authority, so that `./keys.json` and ARNs need no escapes)::

    scheme "://" location [ "?" query ] [ "#" fragment ]      keystore://./keys.json#pii
    scheme ":" location [ "?" query ] [ "#" fragment ]        pkcs11:token=a;object=b   (RFC 7512)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from pipecrypt.errors import KeyReferenceError

__all__ = ["KeyReference", "anchored_reference", "parse_key_reference"]

_MAX_CHARACTERS: Final = 4096
_REFERENCE: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<slashes>//)?(?P<location>[^?#]*)"
    r"(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?"
)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Their location is a path of this machine. Paths in other schemes (PKCS #11) are absolute anyway.
_OF_FILES: Final = frozenset({"keystore", "pem", "recipient", "static"})


@dataclass(frozen=True, slots=True)
class KeyReference:
    """A parsed key reference.

    Args:
        scheme: which key service, in lower case.
        location: what follows the scheme. Percent escapes are decoded in the `//` form only: in an opaque form
            such as `pkcs11:` they belong to parts that the service splits first.
        fragment: what follows `#`, decoded, or None.
        query: the decoded `name=value` pairs after `?`, in order.
        text: the reference as it was given; what errors show.
    """

    scheme: str
    location: str
    fragment: str | None
    query: tuple[tuple[str, str], ...]
    text: str

    def __str__(self) -> str:
        """Show the text as it was given."""
        return self.text

    @property
    def local_path(self) -> Path:
        """The location as an absolute path on this machine, `~` expanded, so that messages say where they looked.

        Raises:
            KeyReferenceError: no home directory is known.
        """
        try:
            return _absolute(Path(self.location).expanduser())
        except RuntimeError as error:
            raise KeyReferenceError(
                f"no home directory is known for key reference {self.text}", hint="write the whole path instead of ~"
            ) from error

    @property
    def names_file(self) -> bool:
        """Whether the location is a file of this machine, which holds the keys."""
        return self.scheme in _OF_FILES

    def whole_file(self, *options: str) -> Path:
        """Return `local_path` of a reference that names a whole file; each service names the options that it knows.

        Raises:
            KeyReferenceError: the reference has a fragment, or another option.
        """
        self.check_options(*options)
        if self.fragment is not None:
            raise self.malformed(
                f"has a fragment, and {self.scheme}:// takes the whole file", hint="leave out what follows #"
            )
        return self.local_path

    def option(self, name: str) -> str | None:
        """Return the query's value of `name`, or None.

        Raises:
            KeyReferenceError: it is given twice.
        """
        values = [value for key, value in self.query if key == name]
        if len(values) > 1:
            raise self.malformed(f"gives {name} twice", hint=f"give {name} once")
        return values[0] if values else None

    def malformed(self, what: str, *, hint: str | None = None) -> KeyReferenceError:
        """Return the error of a reference that is not of the form which its scheme asks for.

        Args:
            what: is wrong, as what follows "key reference ...".
            hint: what to write.
        """
        return KeyReferenceError(f"key reference {self.text} {what}", hint=hint)

    def check_options(self, *known: str) -> None:
        """Pass if the query has no other names; each service names what it knows.

        Raises:
            KeyReferenceError: it has.
        """
        for name, _ in self.query:
            if name not in known:
                allowed = f"{self.scheme} knows {', '.join(known)}" if known else f"{self.scheme} takes no options"
                raise self.malformed(f"has an unknown option {name!r}", hint=allowed)
            self.option(name)


def parse_key_reference(text: str | KeyReference) -> KeyReference:
    """Parse a key reference; one that is parsed already is returned as it is.

    Raises:
        KeyReferenceError: it is malformed. That the scheme exists is checked by `service.check_key_reference`.
    """
    if isinstance(text, KeyReference):
        return text
    match = _REFERENCE.fullmatch(text) if len(text) <= _MAX_CHARACTERS and text.isprintable() else None
    if match is None:
        raise KeyReferenceError(f"this is not a key reference: {text[:200]!a}")
    has_slashes = match["slashes"] is not None
    location = _decode(match["location"], text) if has_slashes else match["location"]
    if not location:
        raise KeyReferenceError(f"key reference {text} has nothing behind its scheme")
    if not has_slashes and location.startswith(("/", ".", "~")):
        raise KeyReferenceError(
            f"key reference {text} lacks // behind its scheme",
            hint=f"write {match['scheme'].lower()}://{text.partition(':')[2]}",
        )
    fragment = None if match["fragment"] is None else _decode(match["fragment"], text)
    return KeyReference(match["scheme"].lower(), location, fragment, _parse_query(match["query"], text), text)


def anchored_reference(text: str, directory: str) -> str:
    """Return a key reference whose relative path, if it has one, starts from a directory.

    Args:
        text: a key reference that can be parsed.
        directory: absolute.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or match["slashes"] is None or match["scheme"].lower() not in _OF_FILES:
        return text
    location = match["location"]
    if unquote_to_bytes(location)[:1] in {b"/", b"~"}:
        return text
    while location.startswith(("./", "../")):
        step, _, location = location.partition("/")
        directory = os.path.dirname(directory) if step == ".." else directory
    return f"{match['scheme']}://{quote(os.fsencode(directory.rstrip('/')))}/{location}{text[match.end('location') :]}"


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except OSError:  # the current directory is gone
        return path


def _parse_query(query: str | None, text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    if not all(name and equals for name, equals, _ in pairs):
        raise KeyReferenceError(f"key reference {text} has an option without a name or value")
    return tuple((_decode(name, text), _decode(value, text)) for name, _, value in pairs)


def _decode(part: str, text: str) -> str:
    try:
        decoded = unquote_to_bytes(part).decode() if not _BAD_ESCAPE.search(part) else None
    except UnicodeError:
        decoded = None
    if decoded is None or "\0" in decoded:
        raise KeyReferenceError(f"key reference {text} has a malformed % escape", hint="write % itself as %25")
    return decoded
