"""Every error a user can see, with its exit code and a hint.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 integrity, 4 access, 5 conflict or unknown state.
Misuse by our own code is an AssertionError or RuntimeError, and not part of this tree. Errors are pickled as exceptions
are, with all their attributes: workers send them to the driver.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

__all__ = [
    "AccessError",
    "AlreadyEncryptedError",
    "BadRowError",
    "ColumnNotFoundError",
    "ConfigError",
    "ConflictError",
    "ContentError",
    "DamagedKeystoreError",
    "ExpiredError",
    "FormatError",
    "FutureStatementError",
    "IntegrityError",
    "InterruptedRunError",
    "KeyNotFoundError",
    "KeyReferenceError",
    "KeyServiceError",
    "KeystoreError",
    "LimitError",
    "LinkError",
    "LockLostError",
    "MissingExtraError",
    "MovedError",
    "NoRegularFileError",
    "NotEncryptedError",
    "NotInPlaceError",
    "NotTrustedError",
    "OutOfMemoryError",
    "OutputError",
    "PassphraseError",
    "PipecryptError",
    "PolicyError",
    "RetiredKeyError",
    "RolledBackError",
    "SinkNotEmptyError",
    "SourceNotFoundError",
    "StorageAccessError",
    "StorageError",
    "UncheckedWarning",
    "UnlistedColumnError",
    "UnsafeSinkError",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "WorkerError",
]


class PipecryptError(Exception):
    """Base of every error that pipecrypt shows to a user.

    Args:
        message: lower case, no full stop; names the object (file, column, row group) and key reference.
        hint: what to do next; defaults to the class's own hint.
    """

    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "run the command again with --log-level debug for details"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the message and the hint apart, so that each is rendered on its own line."""
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def add_hint(self, hint: str) -> None:
        """Say more about what to do next, where a caller knows more than whoever raised the error."""
        self.hint = f"{self.hint}; {hint}" if self.hint else hint

    def prefixed(self, where: str, *, hint: str | None = None) -> Self:
        """Return the same error, saying where it happened.

        Args:
            where: what its message begins with.
            hint: takes the place of the error's own.
        """
        # Not by `copy`: packages that send errors between processes may register other ways to copy them.
        error = type(self).__new__(type(self))
        error.__dict__.update(self.__dict__)
        error.args = (f"{where}: {self.message}",)
        error.message = error.args[0]
        error.hint = self.hint if hint is None else hint
        return error

    @property
    def lines(self) -> tuple[str, ...]:
        """The message as lines: one, whatever names it holds."""
        return (self.message,)


class ContentError(PipecryptError):
    """Base of the errors that the bytes of a file alone can cause; a file that was changed may cause any of them."""

    default_hint = "check that the file was copied whole and that its writer finished"


class FormatError(ContentError):
    """The input is not a Parquet file, or is truncated or malformed."""


class BadRowError(FormatError):
    """A row of a text file does not fit; the message names file, line and column."""

    default_hint = "mend the row, give the type of the column, or leave bad rows out with on_bad_rows: skip"


class LimitError(ContentError):
    """The input exceeds a limit of the Parquet encryption format."""

    default_hint = "rewrite the file with fewer row groups or larger pages, then encrypt it"


class UnsupportedError(ContentError):
    """The input is valid Parquet, but uses something that cannot be encrypted or decrypted."""

    default_hint = "rewrite the file with a current Parquet writer"


class AlreadyEncryptedError(PipecryptError):
    """The input of an encryption is an encrypted file."""

    default_hint = "decrypt it first, or exclude it from the source"


class NotEncryptedError(PipecryptError):
    """The input of a decryption is not encrypted."""

    default_hint = "the file can be read as it is; remove it from the source"


class StorageError(PipecryptError):
    """The storage refused or failed: permissions, space, network."""

    default_hint = "check the path, its permissions and the free space"


class StorageAccessError(StorageError):
    """The storage denied access: to a path, a bucket or an object."""

    exit_code = 4
    default_hint = "check the credentials and what they permit; docs/storage.md lists what is needed"


class NoRegularFileError(StorageError):
    """A named pipe, a socket or a device is where a file should be."""

    default_hint = "copy it to a file first"


class OutputError(PipecryptError):
    """A command's answer could not be written."""

    default_hint = "what the command did is done; write its output elsewhere"


class SourceNotFoundError(PipecryptError):
    """A source file does not exist, or a glob matches nothing."""

    exit_code = 2
    default_hint = "check the path or the glob; quote globs so that the shell leaves them alone"


class WorkerError(PipecryptError):
    """A worker process died."""

    default_hint = "if memory ran out, lower run.workers, encrypt.batch_rows or run.split_bytes; --resume goes on"


class OutOfMemoryError(PipecryptError):
    """The memory of this machine, or what a process may take of it, did not suffice for a file."""

    default_hint = "lower run.workers, encrypt.batch_rows (other formats) or run.split_bytes (large Parquet files)"


class InterruptedRunError(PipecryptError):
    """The user or the scheduler stopped the run."""

    default_hint = "files already published are whole; run again with --overwrite"


class UsageError(PipecryptError):
    """The command line or the call is wrong."""

    exit_code = 2
    default_hint = "see pipecrypt --help"


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    default_hint = "install the extra that the message names"


class ConfigError(UsageError):
    """The configuration file is wrong; the message names file, line and column.

    Args:
        message: one line for each problem.
        hint: what to do next.
        problems: the lines, where there are several.
    """

    default_hint = "pipecrypt config schema prints what is allowed"

    def __init__(self, message: str, *, hint: str | None = None, problems: tuple[str, ...] = ()) -> None:
        """Keep the problems."""
        super().__init__(message, hint=hint)
        self.problems = problems

    @property
    def lines(self) -> tuple[str, ...]:
        """The message as lines: one a problem."""
        return self.problems or super().lines


class PolicyError(UsageError):
    """The policy contradicts itself or the file."""

    default_hint = "see the section on policies in the documentation"


class ColumnNotFoundError(PolicyError):
    """A column or a glob of the policy matches no column of the file."""

    default_hint = "pipecrypt inspect lists the columns of a file"


class KeyReferenceError(UsageError):
    """A key reference cannot be parsed, or names an unknown scheme."""

    default_hint = "a key reference looks like keystore:///path/keys.json#name"


class IntegrityError(PipecryptError):
    """Data or metadata was changed after it was written."""

    exit_code = 3
    default_hint = "do not use this file; fetch it again from its origin"


class LinkError(IntegrityError):
    """A symbolic link is where a file or a directory of pipecrypt should be."""

    default_hint = "remove the link if nobody needs it: below a directory that pipecrypt writes to, none is followed"


class NotTrustedError(IntegrityError):
    """Too few of the keys that the reader trusts have signed."""

    default_hint = "name the public key of who made the dataset, or do not use it"


class ExpiredError(IntegrityError):
    """A statement was valid once, and its time is over."""

    default_hint = "ask its writer for a statement that is still valid"


class FutureStatementError(IntegrityError):
    """A statement was created later than it can have been: the clock here or there is wrong."""

    default_hint = "compare both clocks with the true time; if the signer's was ahead, wait until then, or sign anew"


class RolledBackError(IntegrityError):
    """A statement is older than one that was seen before."""

    default_hint = "somebody may have put an old version back; ask its writer for the newest"


class VerificationError(IntegrityError):
    """A dataset is not as it was signed.

    Args:
        message: names the first finding and how many there are.
        hint: what to do next.
        report: the `pipecrypt.dataset.verify.report.VerifyReport`, with all findings.
    """

    default_hint = "do not use what is named; fetch it again from its origin, then verify again"

    def __init__(self, message: str, *, hint: str | None = None, report: Any = None) -> None:
        """Keep the report."""
        super().__init__(message, hint=hint)
        self.report = report


class AccessError(PipecryptError):
    """A key is missing or its use was denied."""

    exit_code = 4
    default_hint = "pass the key reference that the message names"


class KeyNotFoundError(AccessError):
    """None of the configured keys opens this file, or the key service has no such key."""

    default_hint = "pipecrypt inspect shows which keys a file needs"


class PassphraseError(AccessError):
    """The passphrase or key file of a keystore is missing or wrong."""

    default_hint = "set PIPECRYPT_PASSPHRASE, PIPECRYPT_PASSPHRASE_FILE or PIPECRYPT_KEY_FILE"


class KeyServiceError(AccessError):
    """A key service failed or refused."""

    default_hint = "check the key service and the permissions of this identity"


class KeystoreError(AccessError):
    """A keystore file is missing, malformed or unsafe."""

    default_hint = "pipecrypt keys new makes a keystore; restore a damaged one from its backup"


class DamagedKeystoreError(KeystoreError, IntegrityError):
    """A keystore is malformed, or was changed by somebody without its passphrase or key file."""

    exit_code = 3
    default_hint = "restore the keystore from its backup, then run pipecrypt keys accept-backup KEYSTORE"


class RetiredKeyError(AccessError):
    """The newest version of a key is retired, so it signs and wraps nothing."""

    default_hint = "make a new version: pipecrypt keys rotate KEYREF"


class ConflictError(PipecryptError):
    """Something else is, or may be, where this run wants to write."""

    exit_code = 5
    default_hint = "look at the sink before running again"


class MovedError(ConflictError):
    """A run moved or replaced files while they were read."""

    default_hint = "open it again; everything that was read before is right"


class NotInPlaceError(ConflictError):
    """A dataset is not as it was signed, and what is at work there may be why; arguments as `VerificationError`."""

    default_hint = "verify again when it is done; findings that are still there then are real"

    def __init__(self, message: str, *, hint: str | None = None, report: Any = None) -> None:
        """Keep the report."""
        super().__init__(message, hint=hint)
        self.report = report


class UnsafeSinkError(ConflictError):
    """The sink cannot keep two writers apart: it takes a second object where a first one is."""

    default_hint = "let one run at a time write there and say so (run.only_writer: true), or choose another storage"


class LockLostError(ConflictError):
    """Another run took the lock of the sink while this one worked, because this one did not answer for long."""

    default_hint = "let the other run end, look at the dataset with pipecrypt verify, then run again"


class SinkNotEmptyError(ConflictError):
    """The sink holds something already."""

    default_hint = "pass --overwrite to replace it, or choose another sink"


class UnlistedColumnError(ConflictError):
    """A source has a column that the policy does not list, and nobody said that it may go out in plaintext."""

    default_hint = "list the column, or say what becomes of unlisted ones (encrypt.unlisted)"


class UncheckedWarning(UserWarning):
    """Data is used although nothing shows who wrote it, because the reader trusts no key. It is not an error."""
