"""What is done with one source file, as plain descriptions that any process can carry out. Doing it is left to task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pipecrypt.dataset.signed_file import SignedFile
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.pipeline.request.reading import FileReading
from pipecrypt.sources.options import EncodeOptions
from pipecrypt.storage.listing import SourceFile
from pipecrypt.storage.location import Location

__all__ = ["ChunkEncryption", "Decryption", "Encryption", "Ingestion", "Operation", "Task"]


@dataclass(frozen=True, slots=True)
class Encryption:
    """Encrypt a Parquet file without decoding it.

    Args:
        policy: which columns under which key.
        dataset_id: the run's, bound into keys and pages.
        row_groups: which of the file's row groups, where several tasks share a large file; None for all.
        share_bytes: how much of the file's size counts as theirs: the shares of all tasks add up to it. None likewise.
    """

    policy: EncryptionPolicy
    dataset_id: str
    row_groups: range | None = None
    share_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Ingestion:
    """Read the rows of a file of another format and encrypt them.

    Args:
        policy: which columns under which key.
        dataset_id: the run's, bound into keys and pages.
        reading: how the file is read.
        encoding: the shape of row groups.
        max_file_bytes: size at which another output file is begun; None for one file whatever its size.
    """

    policy: EncryptionPolicy
    dataset_id: str
    reading: FileReading
    encoding: EncodeOptions
    max_file_bytes: int | None


@dataclass(frozen=True, slots=True)
class ChunkEncryption:
    """Encrypt a file's bytes as they are, in chunks.

    Args:
        policy: the key.
        dataset_id: the run's, bound into keys and pages.
        chunk_bytes: size of a chunk.
        compress: whether chunks are compressed with zstd first.
    """

    policy: EncryptionPolicy
    dataset_id: str
    chunk_bytes: int
    compress: bool


@dataclass(frozen=True, slots=True)
class Decryption:
    """Decrypt a file.

    Args:
        aad_prefix: the AAD prefix of a file that does not store it.
        signed: what was signed about the file, verified by whoever planned; None where nothing is compared.
        mode: how much of the file is compared.
    """

    aad_prefix: bytes | None
    signed: SignedFile | None = None
    mode: VerifyMode = VerifyMode.READ


Operation: TypeAlias = Encryption | Ingestion | ChunkEncryption | Decryption


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One source file and where its output goes.

    Args:
        id: 64 hex digits, the same in every run that does the same with the same source.
        source: the input, pinned.
        sink: the output; the first name of several, where outputs roll over at a size.
        path: the output's path below the sink, bound into what is encrypted.
        operation: what is done.
        overwrite: whether the output may replace a file.
        token: the run's; marks its temporary files.
        is_repeated: whether an earlier attempt of this run may have published its output. That is replaced, and nothing
            else: what is encrypted tells whose it is. Plaintext does not, so it is replaced whatever it is.
    """

    id: str
    source: SourceFile
    sink: Location
    path: str
    operation: Operation
    overwrite: bool
    token: str
    is_repeated: bool = False

    @property
    def input_bytes(self) -> int:
        """How much of the input this task does: all of it, or its share of a large file."""
        operation = self.operation
        if isinstance(operation, Encryption) and operation.share_bytes is not None:
            return operation.share_bytes
        return self.source.size_bytes
