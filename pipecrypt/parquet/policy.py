"""Which columns the engine encrypts under which key, and what a readable footer may show."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipecrypt.crypto.digest import DigestAlgorithm
from pipecrypt.errors import PolicyError

__all__ = ["ClearNotes", "ColumnRule", "EncryptionPolicy", "FooterMode", "KeyScope", "Unlisted"]


class FooterMode(StrEnum):
    """Whether readers without keys can open the footer."""

    PLAINTEXT = "plaintext"
    ENCRYPTED = "encrypted"


class KeyScope(StrEnum):
    """How far one data key of a column reaches."""

    BATCH = "batch"
    FILE = "file"


class Unlisted(StrEnum):
    """What becomes of columns that a policy does not list."""

    PLAINTEXT = "plaintext"
    ENCRYPT = "encrypt"
    REFUSE = "refuse"


class ClearNotes(StrEnum):
    """What becomes of key-value metadata of a readable footer that tells of encrypted columns."""

    STRIP = "strip"
    DROP = "drop"
    REFUSE = "refuse"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """One line of a policy.

    Args:
        pattern: a leaf path (`customer.email`), a root (`customer`), or a glob.
        key_reference: the master key for the columns that it matches.
        is_optional: a file may have no column that it matches.
    """

    pattern: str
    key_reference: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionPolicy:
    """What the engine encrypts, and how.

    Args:
        rules: columns and their master keys; a column may match several rules only if they agree on the key.
        default: master key of all columns that no rule matches, or None to leave those in plaintext.
        footer: whether the footer is encrypted.
        data_keys: one data key per column and row group, or per column and file.
        footer_key: master key of the footer; default: `default`, else the first rule's.
        uniform: all columns under the footer's data key; needs no rules.
        bind_path: store dataset id and path as AAD prefix; DuckDB reads only files without one.
        digest: store digests of what stays in plaintext in the footer (see `integrity`); None: store none.
        refuses_unlisted: a file with a column that no rule matches is refused, where there is no default.
        clear_notes: what becomes of notes in a readable footer: what tells of encrypted columns is stripped from the
            entries that this release knows; with DROP, entries that it does not know go too; or a file with some is
            refused, or kept as it is. What goes stays in the file, sealed.

    Raises:
        PolicyError: no key at all, or `uniform` with rules.
    """

    rules: tuple[ColumnRule, ...] = ()
    default: str | None = None
    footer: FooterMode = FooterMode.PLAINTEXT
    data_keys: KeyScope = KeyScope.BATCH
    footer_key: str | None = None
    uniform: bool = False
    bind_path: bool = True
    digest: DigestAlgorithm | None = None
    refuses_unlisted: bool = False
    clear_notes: ClearNotes = ClearNotes.STRIP

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if not self.rules and self.default is None:
            raise PolicyError("the policy names no column and no default key", hint="name columns, or a default key")
        if self.uniform and self.rules:
            raise PolicyError(
                "uniform encryption puts all columns under the footer key, so it takes no columns",
                hint="give a default key only, or leave out uniform",
            )

    def footer_key_reference(self) -> str:
        """Return the master key of the footer."""
        reference = self.footer_key or self.default or self.rules[0].key_reference
        return reference

    def key_references(self) -> tuple[str, ...]:
        """Return all master keys that encrypting needs, each once."""
        named = [self.footer_key_reference()]
        if not self.uniform:
            named += [rule.key_reference for rule in self.rules] + ([self.default] if self.default else [])
        return tuple(dict.fromkeys(named))
