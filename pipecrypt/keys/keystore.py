"""The key service `keystore://`: master keys and signing keys in a local file. Its siblings know text, seal and file.

URI form: `keystore:///abs/keys.json#name`, `keystore://./keys.json#name`, `keystore://~/keys.json#name`.
Credentials: the passphrase, or the key file where the keystore was made with one; see `credentials`.
Permissions: to read the file; to add keys, also to write in its directory.

Data files store the master key id `keystore/<name>/<uuid>`, never the path. Each version of a key has its own UUID: new
KEKs are wrapped under the newest, and the earlier ones still unwrap.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pipecrypt.context import Context
from pipecrypt.crypto.aead import open_sealed, random_bytes, seal
from pipecrypt.crypto.kdf import KDFParameters, new_parameters
from pipecrypt.crypto.signature import SignatureAlgorithm, new_signing_seed, public_pem, read_private_pem
from pipecrypt.errors import (
    ConflictError,
    IntegrityError,
    KeyNotFoundError,
    KeyReferenceError,
    KeystoreError,
    UsageError,
)
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.documents import decode_base64
from pipecrypt.keys.keystore_document import (
    KeystoreDocument,
    KeyType,
    StoredKey,
    encode_keystore,
    is_key_name,
    parse_keystore,
)
from pipecrypt.keys.keystore_file import locked_directory, read_private_file
from pipecrypt.keys.keystore_seal import new_keystore, open_stored_key, seal_key, unlock_keystore
from pipecrypt.keys.reference import KeyReference, parse_key_reference
from pipecrypt.secret import DATA_KEY_BYTES, DataKey
