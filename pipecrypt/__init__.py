"""pipecrypt: the encryption stage of a data pipeline.

The public face is `__all__` and `pipecrypt.errors`, with what docs/python.md says about each name; `pipecrypt.testing`
is for tests of programs that use pipecrypt. Every other module is private, whatever its name, and may change in any
release.

Names are loaded when they are first used, so that importing pipecrypt imports no pyarrow and no cryptography.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipecrypt import errors as errors
    from pipecrypt.config.run import plan as plan
    from pipecrypt.config.run import run_config as run
    from pipecrypt.crypto.digest import DigestAlgorithm as DigestAlgorithm
    from pipecrypt.dataset.sign.records import SignedStatement
    from pipecrypt.dataset.signed_file import Origin
    from pipecrypt.dataset.statement.findings import Finding, FindingKind
    from pipecrypt.dataset.trust import Trust as Trust
    from pipecrypt.dataset.verify.report import PolicySummary, Unchecked, VerifyReport
    from pipecrypt.errors import UncheckedWarning as UncheckedWarning
    from pipecrypt.keys.credentials import Credentials as Credentials
    from pipecrypt.parquet.report import KeyBytes as KeyBytes
    from pipecrypt.reading.dataset import EncryptedDataset as EncryptedDataset
    from pipecrypt.reading.dataset import open_dataset as open
    from pipecrypt.reading.filesystem import PipecryptFileSystem as PipecryptFileSystem
    from pipecrypt.reading.in_flight import decrypt_bytes as decrypt_bytes
    from pipecrypt.reading.in_flight import encrypt_bytes as encrypt_bytes
    from pipecrypt.reading.pyarrow_keys import ExposedKeys as ExposedKeys
    from pipecrypt.reading.pyarrow_keys import crypto_factory as crypto_factory
    from pipecrypt.reading.pyarrow_keys import decryption_properties as decryption_properties
    from pipecrypt.reading.pyarrow_keys import expose_data_keys as expose_data_keys
    from pipecrypt.runs.deep_rotation import DeepSummary as DeepSummary
    from pipecrypt.runs.files import decrypt as decrypt
    from pipecrypt.runs.files import encrypt as encrypt
    from pipecrypt.runs.journal.cleaning import CleanSummary as CleanSummary
    from pipecrypt.runs.journal.cleaning import clean as clean
    from pipecrypt.runs.plan.preview import PlannedTask, PlanReport, SchemaDrift
    from pipecrypt.runs.report.events import BytesDone as BytesDone
    from pipecrypt.runs.report.events import Event as Event
    from pipecrypt.runs.report.events import FileChecked as FileChecked
    from pipecrypt.runs.report.events import FileDone as FileDone
    from pipecrypt.runs.report.events import FileStarted as FileStarted
    from pipecrypt.runs.report.events import Part as Part
    from pipecrypt.runs.report.events import RunFinished as RunFinished
    from pipecrypt.runs.report.events import RunStarted as RunStarted
    from pipecrypt.runs.report.events import StageSeconds as StageSeconds
    from pipecrypt.runs.report.events import Summary as Summary
    from pipecrypt.runs.report.events import TaskRetried as TaskRetried
    from pipecrypt.runs.sharing import GrantSummary as GrantSummary
    from pipecrypt.runs.sharing import RevokeSummary as RevokeSummary
    from pipecrypt.runs.sharing import grant as grant
    from pipecrypt.runs.sharing import revoke as revoke
    from pipecrypt.runs.sharing import rotate as rotate
    from pipecrypt.runs.spec.options import Reading as Reading
    from pipecrypt.runs.spec.policy import Policy as Policy
    from pipecrypt.runs.verifying import verify as verify
    from pipecrypt.runs.workers.remote import TaskCall as TaskCall
    from pipecrypt.runs.writer import ParquetWriter as ParquetWriter
    from pipecrypt.runs.writer import encrypt_batches as encrypt_batches

__all__ = [
    "BytesDone",
    "CleanSummary",
    "Credentials",
    "DeepSummary",
    "DigestAlgorithm",
    "EncryptedDataset",
    "Event",
    "ExposedKeys",
    "FileChecked",
    "FileDone",
    "FileStarted",
    "Finding",
    "FindingKind",
    "GrantSummary",
    "KeyBytes",
    "Origin",
    "ParquetWriter",
    "Part",
    "PipecryptFileSystem",
    "PlanReport",
    "PlannedTask",
    "Policy",
    "PolicySummary",
    "Reading",
    "RevokeSummary",
    "RunFinished",
    "RunStarted",
    "SchemaDrift",
    "SignedStatement",
    "StageSeconds",
    "Summary",
    "TaskCall",
    "TaskRetried",
    "Trust",
    "Unchecked",
    "UncheckedWarning",
    "VerifyReport",
    "__version__",
    "clean",
    "crypto_factory",
    "decrypt",
    "decrypt_bytes",
    "decryption_properties",
    "encrypt",
    "encrypt_batches",
    "encrypt_bytes",
    "errors",
    "expose_data_keys",
    "grant",
    "open",
    "plan",
    "revoke",
    "rotate",
    "run",
    "verify",
]

__version__ = "0.1.0"

# Where each name is at home: a module, and the name there.
_HOMES = {
    "BytesDone": "pipecrypt.runs.report.events:BytesDone",
    "CleanSummary": "pipecrypt.runs.journal.cleaning:CleanSummary",
    "Credentials": "pipecrypt.keys.credentials:Credentials",
    "DeepSummary": "pipecrypt.runs.deep_rotation:DeepSummary",
    "DigestAlgorithm": "pipecrypt.crypto.digest:DigestAlgorithm",
    "EncryptedDataset": "pipecrypt.reading.dataset:EncryptedDataset",
    "Event": "pipecrypt.runs.report.events:Event",
    "ExposedKeys": "pipecrypt.reading.pyarrow_keys:ExposedKeys",
    "FileChecked": "pipecrypt.runs.report.events:FileChecked",
    "FileDone": "pipecrypt.runs.report.events:FileDone",
    "FileStarted": "pipecrypt.runs.report.events:FileStarted",
    "Finding": "pipecrypt.dataset.statement.findings:Finding",
    "FindingKind": "pipecrypt.dataset.statement.findings:FindingKind",
    "GrantSummary": "pipecrypt.runs.sharing:GrantSummary",
    "KeyBytes": "pipecrypt.parquet.report:KeyBytes",
    "Origin": "pipecrypt.dataset.signed_file:Origin",
    "ParquetWriter": "pipecrypt.runs.writer:ParquetWriter",
    "Part": "pipecrypt.runs.report.events:Part",
    "PipecryptFileSystem": "pipecrypt.reading.filesystem:PipecryptFileSystem",
    "PlanReport": "pipecrypt.runs.plan.preview:PlanReport",
    "PlannedTask": "pipecrypt.runs.plan.preview:PlannedTask",
    "Policy": "pipecrypt.runs.spec.policy:Policy",
    "PolicySummary": "pipecrypt.dataset.verify.report:PolicySummary",
    "Reading": "pipecrypt.runs.spec.options:Reading",
    "RevokeSummary": "pipecrypt.runs.sharing:RevokeSummary",
    "RunFinished": "pipecrypt.runs.report.events:RunFinished",
    "RunStarted": "pipecrypt.runs.report.events:RunStarted",
    "SchemaDrift": "pipecrypt.runs.plan.preview:SchemaDrift",
    "SignedStatement": "pipecrypt.dataset.sign.records:SignedStatement",
    "StageSeconds": "pipecrypt.runs.report.events:StageSeconds",
    "Summary": "pipecrypt.runs.report.events:Summary",
    "TaskCall": "pipecrypt.runs.workers.remote:TaskCall",
    "TaskRetried": "pipecrypt.runs.report.events:TaskRetried",
    "Unchecked": "pipecrypt.dataset.verify.report:Unchecked",
    "Trust": "pipecrypt.dataset.trust:Trust",
    "UncheckedWarning": "pipecrypt.errors:UncheckedWarning",
    "VerifyReport": "pipecrypt.dataset.verify.report:VerifyReport",
    "clean": "pipecrypt.runs.journal.cleaning:clean",
    "crypto_factory": "pipecrypt.reading.pyarrow_keys:crypto_factory",
    "decrypt": "pipecrypt.runs.files:decrypt",
    "decrypt_bytes": "pipecrypt.reading.in_flight:decrypt_bytes",
    "decryption_properties": "pipecrypt.reading.pyarrow_keys:decryption_properties",
    "encrypt": "pipecrypt.runs.files:encrypt",
    "encrypt_batches": "pipecrypt.runs.writer:encrypt_batches",
    "encrypt_bytes": "pipecrypt.reading.in_flight:encrypt_bytes",
    "errors": "pipecrypt.errors",
    "expose_data_keys": "pipecrypt.reading.pyarrow_keys:expose_data_keys",
    "grant": "pipecrypt.runs.sharing:grant",
    "open": "pipecrypt.reading.dataset:open_dataset",
    "plan": "pipecrypt.config.run:plan",
    "revoke": "pipecrypt.runs.sharing:revoke",
    "rotate": "pipecrypt.runs.sharing:rotate",
    "run": "pipecrypt.config.run:run_config",
    "verify": "pipecrypt.runs.verifying:verify",
}


def __getattr__(name: str) -> object:
    """Load a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, _, attribute = _HOMES[name].partition(":")
    module = importlib.import_module(module_name)
    value = getattr(module, attribute) if attribute else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOMES})


# Private modules of 0.1 that are gone, from which scripts may have taken what is public: below this package.
_MOVED = frozenset(
    {
        "dataset.opening.signed_file",
        "dataset.signing.records",
        "dataset.verifying.report",
        "manifest.findings",
        "pipeline.calls.deep_rotation",
        "pipeline.calls.files",
        "pipeline.calls.sharing",
        "pipeline.calls.verifying",
        "pipeline.calls.writer",
        "pipeline.executors.mapped",
        "pipeline.history.cleaning",
        "pipeline.planning.plan_report",
        "pipeline.progress.events",
        "pipeline.progress.stages",
        "pipeline.progress.summary",
        "pipeline.request.policy",
        "pipeline.request.reading",
        "reading.exposed_keys",
    }
)


class _MovedModules:
    """Finds modules that are gone, for one more release: they give the public names, with a warning."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != __name__ or not any(each == name or each.startswith(f"{name}.") for each in _MOVED):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=name not in _MOVED)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        def give(name: str) -> object:
            if module.__name__.removeprefix(f"{__name__}.") not in _MOVED or name not in __all__:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            text = f"{module.__name__} is gone: write `from {__name__} import {name}`; this works for one more release"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return getattr(sys.modules[__name__], name)

        module.__getattr__ = give  # type: ignore[method-assign]


sys.meta_path.append(_MovedModules())
