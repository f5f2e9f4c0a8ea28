"""pipecrypt: the encryption stage of a data pipeline. This file is the public face; every room below does its own work.

Names are loaded when they are first used, so that importing pipecrypt imports no pyarrow and no cryptography.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipecrypt import errors as errors
    from pipecrypt.config.run import run_config as run
    from pipecrypt.errors import UncheckedWarning as UncheckedWarning
    from pipecrypt.reading.dataset import open_dataset as open
    from pipecrypt.reading.in_flight import decrypt_bytes as decrypt_bytes
    from pipecrypt.reading.in_flight import encrypt_bytes as encrypt_bytes
    from pipecrypt.reading.pyarrow_keys import crypto_factory as crypto_factory
    from pipecrypt.reading.pyarrow_keys import decryption_properties as decryption_properties
    from pipecrypt.reading.pyarrow_keys import expose_data_keys
    from pipecrypt.runs.files import decrypt as decrypt
    from pipecrypt.runs.files import encrypt as encrypt
    from pipecrypt.runs.journal.cleaning import clean as clean
    from pipecrypt.runs.sharing import grant as grant
    from pipecrypt.runs.sharing import revoke as revoke
    from pipecrypt.runs.sharing import rotate as rotate
    from pipecrypt.runs.spec.options import Reading as Reading
    from pipecrypt.runs.spec.policy import Policy as Policy
    from pipecrypt.runs.verifying import verify as verify
    from pipecrypt.runs.writer import ParquetWriter as ParquetWriter
    from pipecrypt.runs.writer import encrypt_batches as encrypt_batches

__all__ = [
    "ParquetWriter",
    "Policy",
    "Reading",
    "UncheckedWarning",
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
    "revoke",
    "rotate",
    "run",
    "verify",
]

__version__ = "0.1.0"

_HOMES = {
    "ParquetWriter": ("pipecrypt.runs.writer", "ParquetWriter"),
    "Reading": ("pipecrypt.runs.spec.options", "Reading"),
    "UncheckedWarning": ("pipecrypt.errors", "UncheckedWarning"),
    "encrypt_batches": ("pipecrypt.runs.writer", "encrypt_batches"),
    "decrypt_bytes": ("pipecrypt.reading.in_flight", "decrypt_bytes"),
    "encrypt_bytes": ("pipecrypt.reading.in_flight", "encrypt_bytes"),
    "Policy": ("pipecrypt.runs.spec.policy", "Policy"),
    "clean": ("pipecrypt.runs.journal.cleaning", "clean"),
    "crypto_factory": ("pipecrypt.reading.pyarrow_keys", "crypto_factory"),
    "decrypt": ("pipecrypt.runs.files", "decrypt"),
    "decryption_properties": ("pipecrypt.reading.pyarrow_keys", "decryption_properties"),
    "encrypt": ("pipecrypt.runs.files", "encrypt"),
    "errors": ("pipecrypt.errors", None),
    "expose_data_keys": ("pipecrypt.reading.pyarrow_keys", "expose_data_keys"),
    "grant": ("pipecrypt.runs.sharing", "grant"),
    "revoke": ("pipecrypt.runs.sharing", "revoke"),
    "rotate": ("pipecrypt.runs.sharing", "rotate"),
    "open": ("pipecrypt.reading.dataset", "open_dataset"),
    "run": ("pipecrypt.config.run", "run_config"),
    "verify": ("pipecrypt.runs.verifying", "verify"),
}


def __getattr__(name: str) -> object:
    """Load a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, attribute = _HOMES[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOMES})
