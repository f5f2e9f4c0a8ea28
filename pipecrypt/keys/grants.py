"""Grants: KEKs wrapped for one more master key each, in a small file beside the data.

Layout of `grants.json` (JSON)::

    {"v": 1, "grants": [{"kek": the text of "keyEncryptionKeyID", "master_key": its id,
                         "wrapped": as in "wrappedKEK", "since": "2026-01-31T12:00:00Z"}, ...]}

Whoever can write to a dataset can write this file, so it is a hint like a file's own key material. A forged grant opens
nothing: the KEK in it must unwrap the data key under the KEK's id, and that must match its commitment. One that was
removed takes the right to read away, and no more. Only master keys that the reader configured are asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipecrypt.crypto.recipient import RecipientAlgorithm
from pipecrypt.errors import FormatError, PolicyError
from pipecrypt.keys.material import MAX_KEY_METADATA_BYTES, MAX_MASTER_KEY_ID_CHARACTERS, dataset_of_kek_text
from pipecrypt.vocabulary.clock import utc_text
from pipecrypt.vocabulary.documents import Document, DocumentError, parse_document

__all__ = ["MAX_GRANTS_BYTES", "Grant", "Grants", "check_strengths", "encode_grants", "parse_grants"]

MAX_GRANTS_BYTES: Final = 32 << 20
MAX_GRANTS: Final = 50_000
MAX_TRIED: Final = 4  # of one KEK and one reader
_VERSION: Final = 1
_MAX_KEK_ID_CHARACTERS: Final = 344  # 256 bytes in base64
_RECIPIENT: Final = re.compile(r"recipient/(?P<algorithm>[a-z0-9-]+)/", re.ASCII)


@dataclass(frozen=True, slots=True)
class Grant:
    """A KEK wrapped for one more master key. Nothing in it is secret, and nothing is authenticated.

    Args:
        kek_id: the text of "keyEncryptionKeyID".
        master_key_id: whom it is wrapped for.
        wrapped: the result of `material.kek_text`.
        since: when, in UTC: 2026-01-31T12:00:00Z.
    """

    kek_id: str
    master_key_id: str
    wrapped: str
    since: str

    @property
    def dataset_id(self) -> str:
        """The dataset that it says it was wrapped for; "" for none."""
        return dataset_of_kek_text(self.wrapped) or ""


@dataclass(frozen=True, slots=True)
class Grants:
    """The grants of one file, found by KEK.

    Args:
        all: in the order of the file.
    """

    all: tuple[Grant, ...] = ()
    _by_kek: Mapping[str, Sequence[Grant]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort them by KEK."""
        by_kek: dict[str, list[Grant]] = {}
        for grant in self.all:
            by_kek.setdefault(grant.kek_id, []).append(grant)
        object.__setattr__(self, "_by_kek", by_kek)

    def of(self, kek_id: str) -> Sequence[Grant]:
        """Return the grants of a KEK."""
        return self._by_kek.get(kek_id, ())

    def with_added(self, added: Iterable[Grant]) -> Grants:
        """Return these and others; one that is for the same KEK and master key takes the earlier one's place."""
        merged = {(grant.kek_id, grant.master_key_id): grant for grant in self.all}
        merged.update({(grant.kek_id, grant.master_key_id): grant for grant in added})
        return Grants(tuple(merged.values()))

    def without(self, master_key_ids: Iterable[str]) -> Grants:
        """Return those that are for no master key of these."""
        ids = frozenset(master_key_ids)
        return Grants(tuple(grant for grant in self.all if grant.master_key_id not in ids))


def encode_grants(grants: Grants) -> bytes:
    """Return the content of the file.

    Raises:
        FormatError: it would be larger than readers accept.
    """
    listed = [
        {"kek": grant.kek_id, "master_key": grant.master_key_id, "wrapped": grant.wrapped, "since": grant.since}
        for grant in grants.all
    ]
    data = (json.dumps({"v": _VERSION, "grants": listed}, separators=(",", ":")) + "\n").encode()
    if len(listed) > MAX_GRANTS or len(data) > MAX_GRANTS_BYTES:
        raise FormatError(
            f"there would be {len(listed)} grants, {len(data)} bytes of them",
            hint=f"at most {MAX_GRANTS} fit beside a dataset: revoke some, or rotate --deep, which joins KEKs",
        )
    return data


def parse_grants(data: bytes) -> Grants:
    """Return what a file of grants says.

    Raises:
        FormatError: malformed, too large, or of a later release.
    """
    try:
        document = parse_document(data, max_bytes=MAX_GRANTS_BYTES)
        if document.integer("v") != _VERSION:
            raise DocumentError("of a version that is unknown to this release")
        document.only("v", "grants")
        return Grants(tuple(map(_read, document.documents("grants", max_count=MAX_GRANTS))))
    except DocumentError as error:
        raise FormatError(
            f"the grants are malformed: {error}",
            hint="put a copy of the file back; or remove it, and grant anew",
        ) from error


def check_strengths(master_key_ids: Iterable[str]) -> None:
    """Pass if the recipients among the master keys of one KEK are all post-quantum, or none is.

    One classical recipient gives the KEK to whoever records the file today and has a quantum computer later, so a
    post-quantum one beside it would promise what does not hold. Master keys of other kinds are symmetric, and count as
    neither. Ids are compared, because those that a KEK has already are known by nothing else.

    Raises:
        PolicyError: they are mixed.
    """
    algorithms: dict[bool, str] = {}
    for master_key_id in master_key_ids:
        match = _RECIPIENT.match(master_key_id)
        if match is not None and match["algorithm"] in {each.value for each in RecipientAlgorithm}:
            algorithms[RecipientAlgorithm(match["algorithm"]).is_post_quantum] = master_key_id
    if len(algorithms) > 1:
        raise PolicyError(
            f"the recipient {algorithms[False]!a} is not post-quantum, and {algorithms[True]!a} is: the "
            "weaker one would decide for both",
            hint="grant to recipients of one kind; rotate --deep moves a column to another key altogether",
        )


def _read(document: Document) -> Grant:
    document.only("kek", "master_key", "wrapped", "since")
    return Grant(
        kek_id=document.text("kek", max_characters=_MAX_KEK_ID_CHARACTERS),
        master_key_id=document.text("master_key", max_characters=MAX_MASTER_KEY_ID_CHARACTERS),
        wrapped=document.text("wrapped", max_characters=MAX_KEY_METADATA_BYTES),
        since=utc_text(document.time("since")),
    )
