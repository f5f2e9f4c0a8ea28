"""What a caller asks for, checked and in one piece."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from pipecrypt.dataset.listing import ENCRYPTED_FILES
from pipecrypt.dataset.requirements import NO_CHECKS, Checks
from pipecrypt.dataset.statement.paths import SIGNATURE_SUFFIX
from pipecrypt.errors import MissingExtraError, UsageError
from pipecrypt.formats.options import SourceFormat, known_suffixes
from pipecrypt.keys.service import check_key_reference
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.runs.spec.options import ExecutorKind, Reading, RunOptions
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.store.location import EVERY_FILE, Location, Pattern, all_ending

__all__ = ["DecryptSpec", "EncryptSpec", "Spec", "check_sink"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptSpec:
    """Encrypt all files of a source into a sink.

    Args:
        source: a file, a directory (all files below it whose names tell a format; all files, in chunks) or a glob.
        sink: a directory; or a file name, if the source is one file and no directory has that name.
        policy: what is encrypted under which key.
        reading: how sources are read that are not Parquet.
        max_file_bytes: size at which another output file is begun, for such sources; None for one file each.
        overwrite: replace files of the same path; otherwise a sink that holds anything is refused.
        workers: files encrypted at once, each in a process of its own; 1 works in this process.
        run: how the run goes about it.
        known_keys: further key references that may have stood in the policy before a rotation.
        only_tasks: ids of the tasks of a saved plan: no others are done, and each must be there; None for all.
        key_spellings: how key references, and what stands before their `#`, were written, by what they became: what was
            done before is found by the former, wherever a configuration and its keystore have been moved together.

    Attributes:
        engine_policy: the policy, as the engine takes it.

    Raises:
        UsageError: `workers` or `max_file_bytes` is no such number, standard output would be several files or
            signed, or a cluster cannot reach source or sink.
        MissingExtraError: Dask is asked for, and its package is not installed.
    """

    source: Location
    sink: Location
    policy: Policy
    reading: Reading = field(default_factory=Reading)
    max_file_bytes: int | None = None
    overwrite: bool = False
    workers: int = 1
    run: RunOptions = field(default_factory=RunOptions)
    only_tasks: frozenset[str] | None = None
    known_keys: tuple[str, ...] = ()
    key_spellings: Mapping[str, str] = field(default_factory=dict)
    engine_policy: EncryptionPolicy = field(init=False, compare=False)
    operation: ClassVar[str] = "encrypt"
    checks: ClassVar[Checks] = NO_CHECKS
    aad_prefix: ClassVar[None] = None

    @property
    def key_references(self) -> tuple[str, ...]:
        """All key references that the run encrypts with."""
        return self.engine_policy.key_references()

    @property
    def also(self) -> tuple[str, ...]:
        """Further master keys that each KEK is wrapped for."""
        return tuple(self.policy.also)

    @property
    def pattern(self) -> Pattern:
        """Which files of a directory are sources."""
        if self.policy.is_chunks:
            return EVERY_FILE
        given = self.reading.format
        return all_ending(known_suffixes(None if given is None else SourceFormat(given)))

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, and make once what each source asks for."""
        object.__setattr__(self, "engine_policy", self.policy.engine_policy())
        _check_workers(self.workers)
        check_sink(self.policy, self.sink, self.max_file_bytes)
        if self.only_tasks is not None and not self.only_tasks:
            raise UsageError("a run of no tasks does nothing", hint="name tasks, or leave only_tasks out")
        if self.run.executor is ExecutorKind.DASK:
            _check_cluster(self.source, self.sink)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecryptSpec:
    """Decrypt all files of a source into a sink.

    Args:
        source: a file, a directory (all `*.parquet` below it) or a glob.
        sink: as for encrypting.
        keys: key references; only these are ever used, whatever the files say.
        aad_prefix: the AAD prefix of files that do not store it.
        checks: what must have been signed, and how much of each file is compared with it.
        overwrite: as for encrypting.
        workers: as for encrypting.

    Raises:
        UsageError: there is no key reference, or `workers` is not a number of processes.
        KeyReferenceError: a key reference is malformed, or has an unknown scheme.
    """

    source: Location
    sink: Location
    keys: tuple[str, ...]
    aad_prefix: bytes | None = None
    checks: Checks = NO_CHECKS
    overwrite: bool = False
    workers: int = 1
    operation: ClassVar[str] = "decrypt"
    policy: ClassVar[None] = None
    engine_policy: ClassVar[None] = None
    also: ClassVar[tuple[str, ...]] = ()
    run: ClassVar[RunOptions] = RunOptions()
    reading: ClassVar[Reading] = Reading()
    max_file_bytes: ClassVar[None] = None
    only_tasks: ClassVar[None] = None
    key_spellings: ClassVar[Mapping[str, str]] = {}
    pattern: ClassVar[Pattern] = ENCRYPTED_FILES

    @property
    def key_references(self) -> tuple[str, ...]:
        """All key references that the run decrypts with."""
        return self.keys

    def __post_init__(self) -> None:
        """Refuse what can decrypt nothing."""
        _check_workers(self.workers)
        if not self.keys:
            raise UsageError("decrypting needs a key reference", hint="pipecrypt inspect shows which keys a file needs")
        for reference in self.keys:
            check_key_reference(reference)


# What holds of both is asked of either; a policy is there where something is encrypted.
Spec: TypeAlias = EncryptSpec | DecryptSpec


def check_sink(policy: Policy, sink: Location, max_file_bytes: object = None) -> None:
    """Check that what a policy makes can be written to a sink, and be signed and granted there.

    Args:
        policy: what is encrypted.
        sink: a file or a directory.
        max_file_bytes: size at which another output file is begun; None for one file each.

    Raises:
        UsageError: that is not a number of bytes. Standard output would be several files, signed or beside grants. The
            name of a file is not UTF-8, as what is written into it is; or it is that of a statement.
    """
    is_stream, file_hint = sink.is_standard_stream, "give a file name, or leave out"
    if max_file_bytes is not None:
        if not isinstance(max_file_bytes, int) or isinstance(max_file_bytes, bool) or max_file_bytes < 1:
            raise UsageError(f"{max_file_bytes!r} is not the size of a file", hint="give a number of bytes")
        if is_stream:
            raise UsageError("standard output cannot be several files", hint=f"{file_hint} the size of files")
    if is_stream and policy.signing is not None:
        raise UsageError("what goes to standard output cannot be signed", hint=f"{file_hint} sign")
    if is_stream and policy.also:
        raise UsageError("there is no place for grants beside standard output", hint=f"{file_hint} also")
    if policy.signing is not None and sink.name.endswith(SIGNATURE_SUFFIX):
        hint = "choose another sink: what has this name is taken for a statement, and nobody could verify it"
        raise UsageError(f"{sink.display} has the name of a statement, so it cannot be signed", hint=hint)
    if sink.names_directory:
        return
    try:
        sink.name.encode()
    except UnicodeEncodeError as error:
        hint = "choose another name, or use a locale with UTF-8; behind the name of a directory write /"
        raise UsageError(f"{sink.url!a} has a name that is not valid Unicode", hint=hint) from error


def _check_cluster(source: Location, sink: Location) -> None:
    """Refuse now what workers elsewhere cannot reach, and a cluster that nothing here can talk to."""
    for place in (source, sink):
        if place.is_in_this_process:
            raise UsageError(
                f"{place.display} is in this process only, where no worker of a cluster reaches it",
                hint="use a storage that all workers see, or run.executor: local",
            )
    if importlib.util.find_spec("distributed") is None:
        raise MissingExtraError("Dask is not installed", hint="pip install pipecrypt[dask]")


def _check_workers(workers: object) -> None:
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise UsageError(f"{workers!r} is not a number of workers", hint="give a whole number from 1")
