"""Decrypt a file, compared with what was signed about it where that is asked for.

What was signed was found and verified once, by whoever planned. Workers get what concerns their own file: they need no
statement, no list of files, no keys to trust, and all of them see the same version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipecrypt.dataset.checked_source import CheckedSource
from pipecrypt.dataset.listing import CHUNKS_SUFFIX
from pipecrypt.dataset.signed_file import SignedFile, check_bytes, check_file, check_when_opened
from pipecrypt.dataset.statement.paths import check_inside
from pipecrypt.dataset.trust import VerifyMode
from pipecrypt.errors import UsageError
from pipecrypt.formats.compression import ZstdCodec
from pipecrypt.keys.session import KeySession
from pipecrypt.parquet.files import BlobInfo, decrypt_file
from pipecrypt.parquet.footer.opened import as_tampering
from pipecrypt.parquet.report import FileReport
from pipecrypt.runs.file_keys import keys_of_file
from pipecrypt.runs.output import SignableOutput
from pipecrypt.runs.report.events import FileDone, StageClock
from pipecrypt.runs.task import BeforePublishing, Kind, OnBytes, Task, write_one_file
from pipecrypt.store.open import open_range_source
from pipecrypt.vocabulary.documents import DocumentError

__all__ = ["Decryption"]


@dataclass(frozen=True, slots=True)
class Decryption(Kind):
    """Decrypt a file.

    Args:
        aad_prefix: the AAD prefix of a file that does not store it.
        signed: what was signed about the file, verified by whoever planned; None where nothing is compared.
        mode: how much of the file is compared.
    """

    aad_prefix: bytes | None
    signed: SignedFile | None = None
    mode: VerifyMode = VerifyMode.READ
    policy: ClassVar[None] = None

    def output_path(self, relative_path: str) -> str:
        """Return the path of the output: whoever can write to the source may call a file `...chunks.parquet`."""
        path = relative_path.removesuffix(CHUNKS_SUFFIX)
        try:
            check_inside(path)
        except DocumentError as error:
            raise UsageError(
                f"{relative_path!a} would be decrypted to a name that no file can have: {error}",
                hint="decrypt it by itself, and name the output",
            ) from error
        return path

    def carry_out(
        self, task: Task, session: KeySession, on_bytes: OnBytes, before_publishing: BeforePublishing
    ) -> FileDone:
        """Decrypt the file."""
        return write_one_file(task, session, on_bytes, before_publishing, self._decrypt)

    def _decrypt(self, task: Task, output: SignableOutput, clock: StageClock, on_bytes: OnBytes) -> FileReport:
        signed, mode = self.signed, self.mode

        def restore(info: BlobInfo) -> None:
            output.publication.restore_attributes(mode=info.mode, mtime_ns=info.mtime_ns)

        def go_on(_: int) -> None:
            on_bytes(0)  # no byte is done while a file is digested, which may take long: may stop it

        with open_range_source(task.source, reads_all=True) as file:
            clock.opened()
            checked = None if signed is None else CheckedSource(file)
            if signed is not None and checked is not None:
                check_file(signed, checked, mode, on_bytes=go_on)
            with as_tampering(is_signed=signed is not None):
                return decrypt_file(
                    file if checked is None else checked,
                    output.sink,
                    keys=keys_of_file(task.source.location, output.session),
                    aad_prefix=self.aad_prefix,
                    codec=ZstdCodec(),
                    bytes_check=None if signed is None else check_bytes(signed),
                    check=None if signed is None else signed.check_footer,
                    check_opened=(
                        None
                        if signed is None or checked is None
                        else check_when_opened(signed, checked, mode, on_bytes=go_on)
                    ),
                    checks_digests=mode is not VerifyMode.OFF,
                    on_info=restore,
                    on_bytes=on_bytes,
                )
