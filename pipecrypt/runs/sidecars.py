"""What lies beside encrypted files: grants for more master keys, and the statements of files that a script writes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Self

from pipecrypt.dataset.memory import VersionMemory
from pipecrypt.dataset.share.grants import add_grants
from pipecrypt.dataset.sign.next_version import FileSigning
from pipecrypt.dataset.sign.records import SignedStatement, SigningOptions
from pipecrypt.dataset.sign.signers import OpenSigners
from pipecrypt.dataset.sign.sink_checks import check_outside_datasets, check_unsigned_file
from pipecrypt.dataset.statement.paths import GRANTS_PATH, GRANTS_SUFFIX, check_signable_paths
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.grants import Grant
from pipecrypt.runs.output import WrittenFile, sidecar_files
from pipecrypt.runs.spec.policy import Policy
from pipecrypt.runs.spec.spec import check_signable_sink
from pipecrypt.store.location import Location
from pipecrypt.vocabulary.context import new_dataset_id

__all__ = ["RunGrants", "SignedOutput"]


class RunGrants:
    """The grants of one run.

    Args:
        sink: a directory, or a file.
        is_single_file: whether it is a file; several, then, if it is rolled over.
    """

    def __init__(self, sink: Location, *, is_single_file: bool) -> None:
        """Store nothing yet."""
        self._sink = sink
        self._is_single_file = is_single_file
        self._made: tuple[Grant, ...] = ()

    def store(self, paths: Iterable[str], made: Iterable[Grant]) -> None:
        """Store what was made since the last call.

        Args:
            paths: of the files that appeared, below the sink; their names where the sink is a file.
            made: may be none: files under a KEK of an earlier one need its grants beside them.

        Raises:
            ConflictError: another command holds the lock of the grants.
            PipecryptError: the storage refused or failed; the files stay, and `pipecrypt grant` makes up for it.
        """
        new = tuple(made)
        self._made += new
        if not self._made:
            return
        if self._is_single_file:
            for path in paths:
                add_grants(self._sink.sibling(path + GRANTS_SUFFIX), self._made)
        elif new:
            add_grants(self._sink.child(GRANTS_PATH), new)


class SignedOutput:
    """How one file, or several of a size, is signed; a context manager that wipes the signing keys.

    Attributes:
        dataset_id: what the files must be bound to.

    Args:
        policy: says whether they are signed at all.
        sink: the file; with `is_numbered`, numbers are added to its name.
        credentials: what opens the signing keys.
        overwrite: whether files and their statements may be replaced.
        is_numbered: whether there may be several files.
        accepts_future: whether to follow a statement of a signer whose clock was ahead.

    Raises:
        UsageError: standard output cannot be signed, or the name cannot.
        AccessError: a signing key is missing, or the credentials do not open it.
        ConflictError: a statement would become false.
        NotTrustedError: other keys signed what is there.
    """

    def __init__(
        self,
        policy: Policy,
        sink: Location,
        credentials: Credentials,
        *,
        overwrite: bool,
        is_numbered: bool,
        accepts_future: bool = False,
    ) -> None:
        """Open the signing keys, and look at the statements that are there."""
        check_signable_sink(policy, sink)
        self._signers: OpenSigners | None = None
        self._signing: FileSigning | None = None
        if not sink.is_standard_stream:
            options = policy.signing
            options = None if options is None else replace(options, accepts_future=accepts_future)
            self._look(options, sink, credentials, overwrite=overwrite, is_numbered=is_numbered)
        known = None if self._signing is None else self._signing.dataset_id
        self.dataset_id = known or new_dataset_id()

    def publish(self, written: Iterable[WrittenFile]) -> tuple[SignedStatement, ...]:
        """Sign files that were published, each with a statement beside it.

        Raises:
            PipecryptError: signing or publishing failed; the statements before that one stay.
        """
        if self._signing is None:
            return ()
        self._signing.add(noted for file in written for noted in file.signable)
        return self._signing.publish(self.dataset_id)

    def close(self) -> None:
        """Wipe the signing keys. Safe to call twice."""
        if self._signers is not None:
            self._signers.close()

    def __enter__(self) -> Self:
        """Return the output itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe the signing keys."""
        self.close()

    def _look(
        self,
        options: SigningOptions | None,
        sink: Location,
        credentials: Credentials,
        *,
        overwrite: bool,
        is_numbered: bool,
    ) -> None:
        check_outside_datasets(sink)
        files = sidecar_files(sink, is_numbered=is_numbered)
        if options is None:
            for file in files:
                check_unsigned_file(file)
            return
        check_signable_paths([files[0].name])
        self._signers = OpenSigners(options, credentials, VersionMemory.of_user(os.environ))
        try:
            self._signing = FileSigning(files, self._signers, overwrite=overwrite)
        except BaseException:
            self.close()
            raise
