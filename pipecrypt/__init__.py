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
    from pipecrypt import errors
    from pipecrypt.config.run import plan
    from pipecrypt.config.run import run_config as run
    from pipecrypt.crypto.digest import DigestAlgorithm
    from pipecrypt.dataset.sign.records import SignedStatement
    from pipecrypt.dataset.signed_file import Origin
    from pipecrypt.dataset.statement.findings import Finding, FindingKind
    from pipecrypt.dataset.trust import Trust
    from pipecrypt.dataset.verify.report import PolicySummary, Unchecked, VerifyReport
    from pipecrypt.errors import UncheckedWarning
    from pipecrypt.keys.credentials import Credentials
    from pipecrypt.keys.held_keys import Session
    from pipecrypt.parquet.report import KeyBytes
    from pipecrypt.reading.dataset import EncryptedDataset
    from pipecrypt.reading.dataset import open_dataset as open
    from pipecrypt.reading.filesystem import PipecryptFileSystem
    from pipecrypt.reading.in_flight import decrypt_bytes, encrypt_bytes
    from pipecrypt.reading.pyarrow_keys import ExposedKeys, crypto_factory, decryption_properties, expose_data_keys
    from pipecrypt.runs.deep_rotation import DeepSummary
    from pipecrypt.runs.files import decrypt, encrypt
    from pipecrypt.runs.journal.cleaning import CleanSummary, clean
    from pipecrypt.runs.plan.preview import PlannedTask, PlanReport, SchemaDrift
    from pipecrypt.runs.report.events import (
        BytesDone,
        Event,
        FileChecked,
        FileDone,
        FileStarted,
        Part,
        RunFinished,
        RunStarted,
        StageSeconds,
        Summary,
        TaskRetried,
    )
    from pipecrypt.runs.sharing import GrantSummary, RevokeSummary, grant, revoke, rotate
    from pipecrypt.runs.spec.options import Reading
    from pipecrypt.runs.spec.policy import Policy
    from pipecrypt.runs.verifying import verify
    from pipecrypt.runs.workers.remote import TaskCall
    from pipecrypt.runs.writer import ParquetWriter, encrypt_batches

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
    "Session",
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

# The modules where public names are at home. Two are called otherwise there.
_MODULES = {
    "pipecrypt.config.run": ("plan", "run"),
    "pipecrypt.crypto.digest": ("DigestAlgorithm",),
    "pipecrypt.dataset.sign.records": ("SignedStatement",),
    "pipecrypt.dataset.signed_file": ("Origin",),
    "pipecrypt.dataset.statement.findings": ("Finding", "FindingKind"),
    "pipecrypt.dataset.trust": ("Trust",),
    "pipecrypt.dataset.verify.report": ("PolicySummary", "Unchecked", "VerifyReport"),
    "pipecrypt.errors": ("UncheckedWarning",),
    "pipecrypt.keys.credentials": ("Credentials",),
    "pipecrypt.keys.held_keys": ("Session",),
    "pipecrypt.parquet.report": ("KeyBytes",),
    "pipecrypt.reading.dataset": ("EncryptedDataset", "open"),
    "pipecrypt.reading.filesystem": ("PipecryptFileSystem",),
    "pipecrypt.reading.in_flight": ("decrypt_bytes", "encrypt_bytes"),
    "pipecrypt.reading.pyarrow_keys": ("ExposedKeys", "crypto_factory", "decryption_properties", "expose_data_keys"),
    "pipecrypt.runs.deep_rotation": ("DeepSummary",),
    "pipecrypt.runs.files": ("decrypt", "encrypt"),
    "pipecrypt.runs.journal.cleaning": ("CleanSummary", "clean"),
    "pipecrypt.runs.plan.preview": ("PlanReport", "PlannedTask", "SchemaDrift"),
    "pipecrypt.runs.report.events": (
        "BytesDone",
        "Event",
        "FileChecked",
        "FileDone",
        "FileStarted",
        "Part",
        "RunFinished",
        "RunStarted",
        "StageSeconds",
        "Summary",
        "TaskRetried",
    ),
    "pipecrypt.runs.sharing": ("GrantSummary", "RevokeSummary", "grant", "revoke", "rotate"),
    "pipecrypt.runs.spec.options": ("Reading",),
    "pipecrypt.runs.spec.policy": ("Policy",),
    "pipecrypt.runs.verifying": ("verify",),
    "pipecrypt.runs.workers.remote": ("TaskCall",),
    "pipecrypt.runs.writer": ("ParquetWriter", "encrypt_batches"),
}
_RENAMED = {"open": "open_dataset", "run": "run_config"}
_HOMES = {name: f"{module}:{_RENAMED.get(name, name)}" for module, names in _MODULES.items() for name in names} | {
    "errors": "pipecrypt.errors"
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
