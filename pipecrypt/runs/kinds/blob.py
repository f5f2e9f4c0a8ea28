"""Encrypt a file of any bytes as it is, in blocks that users call chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipecrypt.dataset.listing import CHUNKS_SUFFIX
from pipecrypt.formats.compression import ZstdCodec
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.files import ROW_GROUP_BLOCKS, BlobInfo, encrypt_blob, encrypt_blob_stream
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.output import SignableOutput
from pipecrypt.runs.report.events import FileDone, StageClock
from pipecrypt.runs.task import BeforePublishing, Kind, OnBytes, Task, write_one_file
from pipecrypt.store.open import open_range_source, open_source_file
from pipecrypt.vocabulary.context import Context

__all__ = ["BlobEncryption"]


@dataclass(frozen=True, slots=True)
class BlobEncryption(Kind):
    """Encrypt a file's bytes as they are.

    Args:
        policy: the key.
        chunk_bytes: size of a block.
        compress: whether blocks are compressed with zstd first.
    """

    policy: EncryptionPolicy = field()
    chunk_bytes: int
    compress: bool

    def memory_bytes(self, input_bytes: int) -> int:
        """Return about how much memory it takes: compressed blocks are built in memory, two row groups of them."""
        flowing = super(BlobEncryption, self).memory_bytes(input_bytes)
        built = 2 * ROW_GROUP_BLOCKS * self.chunk_bytes if self.compress else 0
        return flowing + min(input_bytes, built)

    def output_path(self, relative_path: str) -> str:
        """Return the path of the output, which decrypting takes the suffix from again."""
        return relative_path + CHUNKS_SUFFIX

    def carry_out(
        self, task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: BeforePublishing
    ) -> FileDone:
        """Encrypt the file."""
        return write_one_file(task, session, on_bytes, before_publishing, self._encrypt)

    def _encrypt(self, task: Task, output: SignableOutput, clock: StageClock, on_bytes: OnBytes) -> FileReport:
        """Write the source's bytes as an encrypted Parquet file of blocks.

        Standard input is not held in memory: blocks need no end of the input before its beginning.
        """
        file, context = task.source, Context(task.target.dataset_id or "", task.path)
        codec = ZstdCodec() if self.compress else None
        clock.opened()
        if file.location.is_standard_stream:
            with open_source_file(file) as stream:
                return encrypt_blob_stream(
                    stream,
                    output.sink,
                    self.policy,
                    keys=output.keys,
                    context=context,
                    block_bytes=self.chunk_bytes,
                    codec=codec,
                    on_bytes=on_bytes,
                    name=file.location.display,
                )
        with open_range_source(file, reads_all=True) as source:
            return encrypt_blob(
                source,
                output.sink,
                self.policy,
                keys=output.keys,
                context=context,
                info=BlobInfo(file.location.name, file.mode, file.mtime_ns),
                block_bytes=self.chunk_bytes,
                codec=codec,
                on_bytes=on_bytes,
            )
