"""The keys of a session: master keys and explicit keys, every call to their services, and KEKs in memory.

A file may name a million wrapped keys that nobody wrapped. Which of them are forged only the key service can tell, so
each file or message has a budget of its own: who forges one uses up its budget, and no other's. Dataset ids, paths and
KEK ids are what a file claims, and no budget goes by them. Honest files give no wrong text, however many KEKs they
have. What a flood costs is bounded likewise: once `wrong_in_all` wrong texts were met within the time, each further
file or message is given up after its first. None is refused before it was asked for, since the next one may be honest.

KEKs in memory are those that a session made and wraps data keys under, and those that it unwrapped. Without limits a
reader could go on for ever with what it once unwrapped, and a hostile writer could fill its memory. Only what a master
key unwrapped is kept, so that forged texts put nothing out. Nothing here is safe across threads; the session holds its
lock.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, TypeVar

from pipecrypt.crypto.aead import MAX_INVOCATIONS, MessageCipher, random_bytes
from pipecrypt.crypto.digest import digest
from pipecrypt.crypto.mac import commit
from pipecrypt.errors import FormatError, IntegrityError, KeyNotFoundError, KeyServiceError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant
from pipecrypt.keys.material import KEK_ID_BYTES, MaterialWriter, kek_text, parse_kek_text
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.service import (
    ExplicitKeys,
    KeyServices,
    MasterKey,
    Wipeable,
    WrapsKeys,
    mapped_errors,
    open_key_reference,
)
from pipecrypt.vocabulary.clock import utc_now, utc_text
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.documents import encode_base64
from pipecrypt.vocabulary.printable import quoted
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = [
    "KEKCache",
    "KEKLimits",
    "Keyring",
    "LendsKeys",
    "RequestOrigin",
    "WritingKEKs",
    "WrongKEKs",
    "wipe_versions",
]

_MAX_KNOWN: Final = 4096
_KNOWN_SECONDS: Final = 60.0
_REOPEN_HINT: Final = "work inside of its with block; in a forked process, open files and writers anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class KEKLimits:
    """How long a session uses a KEK before it calls its key service again, and how many it keeps.

    Args:
        age_seconds: since the service made or unwrapped it. Who loses the right to a master key goes on for so long.
        uses: data keys wrapped or opened under one KEK; SP 800-38D 8.3 bounds those wrapped.
        count: unwrapped KEKs that are kept.
        text_bytes: the length of all wrapped texts that are kept along with them.
        wrong: texts of one file or message that a master key did not wrap, within `age_seconds`, before it is asked no
            more for that one.
        wrong_in_all: of all files and messages; then one wrong text of each further one is enough.
    """

    age_seconds: float = 3600.0
    uses: int = MAX_INVOCATIONS
    count: int = 1024
    text_bytes: int = 16 * 1024 * 1024
    wrong: int = 16
    wrong_in_all: int = 64

    def __post_init__(self) -> None:
        """Check that each limit lets something pass."""
        counts = (self.count, self.text_bytes, self.wrong, self.wrong_in_all)
        if not (self.age_seconds > 0 and 0 < self.uses <= MAX_INVOCATIONS and all(each > 0 for each in counts)):
            raise ValueError("each limit is positive, and no KEK wraps more than SP 800-38D allows")

    def is_used_up(self, made_at: float, uses: int, now: float) -> bool:
        """Return whether a KEK that has been used so often, made at such a time, is not to be used again."""
        return uses >= self.uses or now - made_at >= self.age_seconds


class RequestOrigin:
    """One file or message that keys are asked for. Not safe across threads; the session holds its lock."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        """Nothing was asked."""
        self.times: dict[str, deque[float]] = {}

    @property
    def wrong(self) -> int:
        """How many texts counted against it so far, of all master keys."""
        return sum(map(len, self.times.values()))


class WrongKEKs:
    """How often each master key met what it did not wrap. Not safe across threads; the session holds its lock.

    A service that refuses or fails says nothing about the text, so that does not count. Nor does what is opened in this
    process, which costs no call: the caller leaves it out.

    Args:
        limits: how many are too many, and when they are forgotten.
        clock: a clock that never goes back, in seconds.
    """

    __slots__ = ("_clock", "_in_all", "_known", "_limits")

    def __init__(self, limits: KEKLimits, clock: Callable[[], float]) -> None:
        """Know of none."""
        self._limits = limits
        self._clock = clock
        self._in_all: dict[str, deque[float]] = {}
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, master_key_id: str, wrapped: str, origin: RequestOrigin) -> None:
        """Pass if this master key, a configured one, may be asked for a text.

        Raises:
            KeyServiceError: it met too many wrong texts of this origin.
            IntegrityError: it was asked for the very text a moment ago, and had not wrapped it.
        """
        now = self._clock()
        told = self._known.get((master_key_id, digest(wrapped.encode(errors="surrogatepass"))))
        if told is not None and now - told < _KNOWN_SECONDS:
            raise IntegrityError(f"the key encryption key was not wrapped by master key {master_key_id}")
        count = self._recent(origin.times, master_key_id, now)
        is_flood = self._recent(self._in_all, master_key_id, now) >= self._limits.wrong_in_all
        if count >= (1 if is_flood else self._limits.wrong):
            raise KeyServiceError(
                f"{master_key_id} is asked no more for this file or message: it did not wrap {count} of the key "
                "encryption keys there",
                hint="it was forged or damaged; others are not concerned",
            )

    def add(self, master_key_id: str, wrapped: str, origin: RequestOrigin) -> None:
        """Count a text that a configured master key did not wrap."""
        now = self._clock()
        origin.times.setdefault(master_key_id, deque()).append(now)
        self._in_all.setdefault(master_key_id, deque(maxlen=self._limits.wrong_in_all)).append(now)
        self._known[master_key_id, digest(wrapped.encode(errors="surrogatepass"))] = now
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    def _recent(self, times: dict[str, deque[float]], master_key_id: str, now: float) -> int:
        of_key = times.get(master_key_id)
        while of_key and now - of_key[0] >= self._limits.age_seconds:
            of_key.popleft()
        return len(of_key or ())


_Result = TypeVar("_Result")
# Reader, master key id, wrapped text.
_KEKName: TypeAlias = tuple[Hashable, str, str]


class LendsKeys(Protocol):
    """Holds keys that are open already."""

    @property
    def lendings(self) -> int:
        """Changes when all that was lent before is no longer there."""

    def lend(self, reference: str | KeyReference, credentials: Credentials) -> MasterKey | ExplicitKeys | None:
        """Return a key that it holds, and keeps; None for any other. The credentials open it where it is not open."""


class Keyring:
    """All keys that a caller configured; nothing else is ever asked.

    Args:
        references: key references; a second mention of one counts once.
        credentials: what opens the key services.
        services: key services by scheme that are asked before the built-in ones.
        wrong: counts what a master key did not wrap; by default for as long as this lives.
        lender: holds keys that are open already, and keeps them.

    Raises:
        KeyReferenceError: a reference is malformed, or has an unknown scheme.
        AccessError: a key is missing, or the credentials do not open it.
    """

    __slots__ = (
        "_by_reference",
        "_explicit",
        "_lender",
        "_lendings",
        "_lent",
        "_master_keys",
        "_opened",
        "_wrong",
        "service_calls",
    )

    def __init__(
        self,
        references: Sequence[str | KeyReference],
        credentials: Credentials,
        services: KeyServices | None,
        wrong: WrongKEKs | None = None,
        lender: LendsKeys | None = None,
    ) -> None:
        """Open all references; what derives slowly is derived once for all of them."""
        self._wrong = wrong or WrongKEKs(KEKLimits(), time.monotonic)
        self._lender = lender
        self._lendings = 0 if lender is None else lender.lendings
        self._lent: set[str] = set()
        self.service_calls = 0
        self._opened: dict[str, MasterKey | ExplicitKeys] = {}
        self._by_reference: dict[str, MasterKey] = {}
        self._master_keys: dict[str, MasterKey] = {}
        self._explicit: list[ExplicitKeys] = []
        try:
            for text, reference in {str(each): each for each in references}.items():
                lent = None if lender is None else lender.lend(reference, credentials)
                if lent is not None:
                    self._lent.add(text)
                self._add(text, lent or open_key_reference(reference, credentials, services=services))
        except BaseException:
            self.wipe()
            raise
        finally:
            credentials.forget()

    @property
    def is_usable(self) -> bool:
        """Whether the lender has not taken back what it lent."""
        return self._lender is None or self._lender.lendings == self._lendings

    def master_key(self, key_reference: str | KeyReference) -> MasterKey:
        """Return the master key of one of the references.

        Raises:
            UsageError: it names keys that only open files.
        """
        self._check_usable()
        master_key = self._by_reference.get(str(key_reference))
        if master_key is None:
            if str(key_reference) not in self._opened:
                raise RuntimeError("this key reference is not one of the session's, or the session is closed")
            raise UsageError(
                f"{key_reference} only opens files of other writers",
                hint="encrypt under a master key, such as keystore:///path/keys.json#name",
            )
        return master_key

    def generate(self, key_reference: str | KeyReference, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its form wrapped by a master key; one service call.

        Raises:
            KeyServiceError: the service failed or refused.
        """
        master_key = self.master_key(key_reference)
        key, wrapped = self._call(lambda: master_key.generate_key(context), key_reference)
        if key.bits != DATA_KEY_BYTES * 8:
            raise KeyServiceError(f"{key_reference} made a key of {key.bits} bits, not 256")
        return key, wrapped

    def unwrap(self, wrapped: str, master_key_id: str, origin: RequestOrigin) -> DataKey:
        """Return the key in a text of "wrappedKEK" or of a singly wrapped "wrappedDEK"; one service call.

        `master_key_id` comes from a file and is a hint: it chooses among the configured keys, and adds none.

        Args:
            wrapped: the text.
            master_key_id: as the file names it.
            origin: the file or message; what is wrong counts against it.

        Raises:
            KeyNotFoundError: the master key is not one of the configured ones; lists it and those.
            KeyServiceError: the service failed or refused, or met too many wrong texts; see `WrongKEKs`.
            IntegrityError: the text was not made by that master key for that dataset.
            FormatError: the text is not a wrapped key.
            UsageError: the keys were lent, and the lender took them back.
        """
        self._check_usable()
        master_key = self._master_keys.get(master_key_id) or self._replica_of(master_key_id)
        if master_key is None:
            return self._unwrap_explicit(wrapped, master_key_id)
        dataset_id, sealed = parse_kek_text(wrapped)
        context = Context(dataset_id=dataset_id or "", path="")
        # By the configured key's own id: files may call one key by several, as a replica in another region.
        costs_calls = not getattr(master_key, "opens_here", False)
        if costs_calls:
            self._wrong.check(master_key.id, wrapped, origin)
        try:
            return self._call(lambda: master_key.unwrap_key(sealed, context), master_key_id)
        except (IntegrityError, FormatError):
            if costs_calls:
                self._wrong.add(master_key.id, wrapped, origin)
            raise

    def wrap(self, key_reference: str | KeyReference, key: DataKey, context: Context) -> bytes:
        """Return a key that exists, wrapped by the master key of a reference; one service call.

        Raises:
            KeyServiceError: the service failed or refused.
            UsageError: keys of that service only wrap keys that they make, or none.
        """
        master_key = self.master_key(key_reference)
        if not isinstance(master_key, WrapsKeys):
            raise UsageError(
                f"{key_reference} cannot wrap a key that exists", hint="name a master key of another key service"
            )
        return self._call(lambda: master_key.wrap_key(key, context), key_reference)

    def master_key_ids(self) -> tuple[str, ...]:
        """Return the ids of all configured master keys, earlier versions included."""
        return tuple(self._master_keys)

    def can_open(self, master_key_id: str) -> bool:
        """Return whether a configured master key opens what one of this id wrapped; nothing is called."""
        master_key = self._master_keys.get(master_key_id) or self._replica_of(master_key_id)
        return master_key is not None and not _seals_only(master_key)

    def find(self, key_metadata: bytes, context: Context) -> DataKey:
        """Return the explicit key for the key metadata of another scheme.

        Raises:
            KeyNotFoundError: none is listed.
        """
        self._check_usable()
        for keys in self._explicit:
            key = keys.find_key(key_metadata, context)
            if key is not None:
                return key
        text = key_metadata.decode(errors="replace")
        named = f"with key metadata {quoted(text)}" if text else "without key metadata"
        raise KeyNotFoundError(
            f"another program wrote the file, {named}; none of the configured keys fits: {self._configured()}",
            hint="list the key in a JSON file and pass static://FILE",
        )

    def wipe(self) -> None:
        """Wipe what key services hold in this process, but for what was lent, and forget all keys."""
        for text, opened in self._opened.items():
            if text not in self._lent:
                wipe_versions(opened)
        self._opened.clear()
        self._by_reference.clear()
        self._master_keys.clear()
        self._explicit.clear()

    def _add(self, key_reference: str, opened: MasterKey | ExplicitKeys) -> None:
        self._opened[key_reference] = opened
        if isinstance(opened, ExplicitKeys):
            self._explicit.append(opened)
        if isinstance(opened, MasterKey):
            self._by_reference[key_reference] = opened
            for master_key in _versions(opened):
                # A public key never takes the place of its private half, which answers to the same id.
                if not (_seals_only(master_key) and master_key.id in self._master_keys):
                    self._master_keys[master_key.id] = master_key

    def _replica_of(self, master_key_id: str) -> MasterKey | None:
        for master_key in self._master_keys.values():
            opens_for: Callable[[str], bool] | None = getattr(master_key, "opens_for", None)
            if opens_for is not None and opens_for(master_key_id):
                return master_key
        return None

    def _unwrap_explicit(self, wrapped: str, master_key_id: str) -> DataKey:
        for keys in self._explicit:
            key = keys.unwrap_named(wrapped, master_key_id)
            if key is not None:
                return key
        raise KeyNotFoundError(
            f"the file needs master key {quoted(master_key_id)}, which is not one of the configured keys: "
            f"{self._configured()}",
            hint="pass the key reference of that master key; pipecrypt inspect shows which keys a file needs",
        )

    def _configured(self) -> str:
        named = [
            f"{key_reference} ({opened.id})" if isinstance(opened, MasterKey) else key_reference
            for key_reference, opened in self._opened.items()
        ]
        return ", ".join(named) or "no key was given"

    def _check_usable(self) -> None:
        if not self.is_usable:
            raise UsageError("the Session that this key is of was closed, or its process forked", hint=_REOPEN_HINT)

    def _call(self, call: Callable[[], _Result], what: str | KeyReference) -> _Result:
        self._check_usable()
        self.service_calls += 1
        with mapped_errors(quoted(str(what))):
            return call()


def _seals_only(master_key: MasterKey) -> bool:
    return getattr(master_key, "seals_only", False)


def _versions(newest: MasterKey) -> tuple[MasterKey, ...]:
    earlier_versions: Callable[[], tuple[MasterKey, ...]] = getattr(newest, "earlier_versions", tuple)
    return (*earlier_versions(), newest)


def wipe_versions(opened: MasterKey | ExplicitKeys) -> None:
    """Wipe what a key service holds in this process of a key, and of the versions before it."""
    for each in _versions(opened) if isinstance(opened, MasterKey) else (opened,):
        if isinstance(each, Wipeable):
            each.wipe()


@dataclass(slots=True)
class _Entry:
    key: DataKey = field(repr=False)
    made_at: float
    uses: int = 0


class KEKCache:
    """Unwrapped KEKs by master key and wrapped text. Not safe across threads; the session holds its lock.

    The whole wrapped text is part of the name: a KEK id is only a file's claim, and would let one file put its KEK in
    the place of another's. So is who reads, where several readers share one: each finds what it put there.

    Args:
        limits: when a KEK leaves.
        clock: a clock that never goes back, in seconds.
    """

    __slots__ = ("_clock", "_entries", "_limits", "_text_bytes")

    def __init__(self, limits: KEKLimits, clock: Callable[[], float]) -> None:
        """Hold nothing."""
        self._limits = limits
        self._clock = clock
        self._entries: OrderedDict[_KEKName, _Entry] = OrderedDict()
        self._text_bytes = 0

    def get(self, master_key_id: str, wrapped: str, reader: Hashable = None) -> DataKey | None:
        """Return a KEK for one use, or None; it stays the cache's, which may wipe it at the next `put`."""
        name = (reader, master_key_id, wrapped)
        entry = self._entries.get(name)
        if entry is None:
            return None
        if self._limits.is_used_up(entry.made_at, entry.uses, self._clock()):
            self._drop(name)
            return None
        entry.uses += 1
        self._entries.move_to_end(name)
        return entry.key

    def put(self, master_key_id: str, wrapped: str, key: DataKey, reader: Hashable = None) -> None:
        """Keep a KEK that was just unwrapped for its first use; what is old, or too much, leaves."""
        self.drop_old()
        self._entries[reader, master_key_id, wrapped] = _Entry(key, self._clock(), uses=1)
        self._text_bytes += len(wrapped)
        limits = self._limits
        while len(self._entries) > 1 and (len(self._entries) > limits.count or self._text_bytes > limits.text_bytes):
            self._drop(next(iter(self._entries)))

    def drop_old(self) -> None:
        """Wipe what is not to be used again."""
        now = self._clock()
        for old in [each for each, it in self._entries.items() if self._limits.is_used_up(it.made_at, it.uses, now)]:
            self._drop(old)

    def wipe(self) -> None:
        """Wipe all KEKs and forget them."""
        for name in tuple(self._entries):
            self._drop(name)

    def _drop(self, name: _KEKName) -> None:
        self._entries.pop(name).key.wipe()
        self._text_bytes -= len(name[2])


@dataclass(slots=True)
class _WritingKEK:
    key: DataKey
    cipher: MessageCipher
    id: bytes
    writer: MaterialWriter
    made_at: float
    wraps: int = 0


class WritingKEKs:
    """Wraps data keys under KEKs that it makes when they are needed.

    Args:
        keyring: calls the key services.
        limits: how long a KEK is used.
        clock: a clock that never goes back, in seconds.
        also: key references that each KEK is wrapped for, too.
    """

    __slots__ = ("_also", "_clock", "_grants", "_keks", "_keyring", "_limits", "_untaken")

    def __init__(
        self, keyring: Keyring, limits: KEKLimits, clock: Callable[[], float], also: Sequence[str | KeyReference]
    ) -> None:
        """Make no KEK yet."""
        self._keyring = keyring
        self._limits = limits
        self._clock = clock
        self._also = tuple(dict.fromkeys(also))
        self._keks: dict[tuple[str, str], _WritingKEK] = {}
        self._grants: list[Grant] = []
        self._untaken = 0  # from this one on

    @property
    def grants(self) -> tuple[Grant, ...]:
        """All KEKs, wrapped for the further master keys."""
        return tuple(self._grants)

    def wrap(self, key_reference: str | KeyReference, key: DataKey, context: Context, dataset_id: str | None) -> bytes:
        """Return the `key_metadata` of a data key.

        Args:
            key_reference: of the master key.
            key: the data key.
            context: where it is used.
            dataset_id: that the KEK is bound to; None for that of the context.

        Raises:
            KeyServiceError: the key service failed or refused to make a KEK.
            UsageError: the reference names keys that only open files.
        """
        kek = self._kek(key_reference, context.dataset_id if dataset_id is None else dataset_id)
        # The AAD is the KEK's id, because parquet-java and parquet-cpp unwrap data keys so.
        wrapped = kek.cipher.seal(key.expose_key_bytes(), kek.id)
        kek.wraps += 1
        return kek.writer.encode(wrapped, commit(key, context.key_binding()), is_footer_key=context.column is None)

    def take_grants(self) -> tuple[Grant, ...]:
        """Return the KEKs made since the last call, wrapped for the further master keys."""
        made, self._untaken = tuple(self._grants[self._untaken :]), len(self._grants)
        return made

    def wipe(self) -> None:
        """Wipe all KEKs and forget them."""
        for kek in self._keks.values():
            kek.key.wipe()
        self._keks.clear()

    def _kek(self, key_reference: str | KeyReference, dataset_id: str) -> _WritingKEK:
        master_key_id = self._keyring.master_key(key_reference).id
        kek = self._keks.get((master_key_id, dataset_id))
        if kek is None or self._limits.is_used_up(kek.made_at, kek.wraps, self._clock()):  # SP 800-38D 8.3
            key, wrapped = self._keyring.generate(key_reference, Context(dataset_id=dataset_id, path=""))
            if kek is not None:
                kek.key.wipe()
            kek_id = random_bytes(KEK_ID_BYTES)
            writer = MaterialWriter(master_key_id, kek_id, kek_text(dataset_id, wrapped))
            kek = _WritingKEK(key, MessageCipher(key), kek_id, writer, self._clock())
            self._grant(kek, dataset_id)  # first: a KEK that could not be wrapped for all is not used
            self._keks[master_key_id, dataset_id] = kek
        return kek

    def _grant(self, kek: _WritingKEK, dataset_id: str) -> None:
        context, since = Context(dataset_id=dataset_id, path=""), utc_text(utc_now())
        for reference in self._also:
            wrapped = kek_text(dataset_id, self._keyring.wrap(reference, kek.key, context))
            self._grants.append(Grant(encode_base64(kek.id), self._keyring.master_key(reference).id, wrapped, since))
