"""Note about a file, while it is written, what a signature will say. Signing it is left to dataset.

Bytes are digested on the thread that writes them, on their way to the storage, so nothing is read back.
"""

from __future__ import annotations

from pipecrypt.crypto.digest import DigestAlgorithm, Digester
from pipecrypt.dataset.sign.promises import note_file
from pipecrypt.dataset.sign.records import SignableFile
from pipecrypt.keys.sessions.recording import RecordingKeys
from pipecrypt.keys.sessions.session import KeySession
from pipecrypt.parquet.policy import EncryptionPolicy
from pipecrypt.parquet.protocols import AppendSink, DataKeys
from pipecrypt.parquet.report import FileReport

__all__ = ["DigestingSink", "SignableOutput"]


class DigestingSink:
    """An AppendSink that digests what it passes on. It copies no ranges: nobody would see those bytes.

    Args:
        sink: where the bytes go.
        algorithm: how they are digested.

    Raises:
        MissingExtraError: BLAKE3 is asked for, and its package is not installed.
    """

    __slots__ = ("_digester", "_sink")

    def __init__(self, sink: AppendSink, algorithm: DigestAlgorithm) -> None:
        """Begin with no bytes."""
        self._sink = sink
        self._digester = Digester(algorithm)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`; raises what the sink raises."""
        self._digester.update(data)
        self._sink.write(data)

    def hexdigest(self) -> str:
        """Return the digest of everything written so far."""
        return self._digester.hexdigest()


class SignableOutput:
    """Where one encrypted file is written, and the keys it is written with.

    Attributes:
        sink: what the engine writes to.
        keys: what the engine makes data keys with.

    Args:
        sink: where the bytes go.
        session: makes data keys.
        policy: under which the file is written; without a digest nothing is noted.
    """

    __slots__ = ("_digesting", "_policy", "_recording", "keys", "sink")

    def __init__(self, sink: AppendSink, session: KeySession, policy: EncryptionPolicy) -> None:
        """Stand between engine and storage, if the policy asks for it."""
        self._policy = policy
        self._digesting = None if policy.digest is None else DigestingSink(sink, policy.digest)
        self._recording = RecordingKeys(session)
        self.sink: AppendSink = sink if self._digesting is None else self._digesting
        self.keys: DataKeys = session if self._digesting is None else self._recording

    def note(self, path: str, report: FileReport) -> tuple[SignableFile, ...]:
        """Return what a signature will say about the file, which is complete; nothing where nothing is signed.

        Args:
            path: of the file below the sink.
            report: what the engine did.

        Raises:
            UsageError: a statement cannot hold it.
        """
        if self._digesting is None:
            return ()
        digest = self._digesting.hexdigest()
        return (note_file(path, report, digest, policy=self._policy, keys=self._recording),)
