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
    from pipecrypt.pipeline.calls.files import decrypt as decrypt
    from pipecrypt.pipeline.calls.files import encrypt as encrypt
    from pipecrypt.pipeline.calls.sharing import grant as grant
    from pipecrypt.pipeline.calls.sharing import revoke as revoke
    from pipecrypt.pipeline.calls.sharing import rotate as rotate
    from pipecrypt.pipeline.calls.verifying import verify as verify
    from pipecrypt.pipeline.calls.writer import ParquetWriter as ParquetWriter
    from pipecrypt.pipeline.calls.writer import encrypt_batches as encrypt_batches
    from pipecrypt.pipeline.history.cleaning import clean as clean
    from pipecrypt.pipeline.request.policy import Policy as Policy
    from pipecrypt.pipeline.request.reading import Reading as Reading
    from pipecrypt.reading.dataset import open_dataset as open
    from pipecrypt.reading.in_flight import decrypt_bytes as decrypt_bytes
    from pipecrypt.reading.in_flight import encrypt_bytes as encrypt_bytes
    from pipecrypt.reading.pyarrow_keys import crypto_factory as crypto_factory
    from pipecrypt.reading.pyarrow_keys import decryption_properties as decryption_properties
    from pipecrypt.reading.pyarrow_keys import expose_data_keys

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
    "ParquetWriter": "pipecrypt.pipeline.calls.writer:ParquetWriter",
    "Reading": "pipecrypt.pipeline.request.reading:Reading",
    "UncheckedWarning": "pipecrypt.errors:UncheckedWarning",
    "encrypt_batches": "pipecrypt.pipeline.calls.writer:encrypt_batches",
    "decrypt_bytes": "pipecrypt.reading.in_flight:decrypt_bytes",
    "encrypt_bytes": "pipecrypt.reading.in_flight:encrypt_bytes",
    "Policy": "pipecrypt.pipeline.request.policy:Policy",
    "clean": "pipecrypt.pipeline.history.cleaning:clean",
    "crypto_factory": "pipecrypt.reading.pyarrow_keys:crypto_factory",
    "decrypt": "pipecrypt.pipeline.calls.files:decrypt",
    "decryption_properties": "pipecrypt.reading.pyarrow_keys:decryption_properties",
    "encrypt": "pipecrypt.pipeline.calls.files:encrypt",
    "errors": "pipecrypt.errors",
    "expose_data_keys": "pipecrypt.reading.pyarrow_keys:expose_data_keys",
    "grant": "pipecrypt.pipeline.calls.sharing:grant",
    "revoke": "pipecrypt.pipeline.calls.sharing:revoke",
    "rotate": "pipecrypt.pipeline.calls.sharing:rotate",
    "open": "pipecrypt.reading.dataset:open_dataset",
    "run": "pipecrypt.config.run:run_config",
    "verify": "pipecrypt.pipeline.calls.verifying:verify",
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
