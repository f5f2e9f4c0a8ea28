"""The key service `pkcs11:`: master keys and signing keys in tokens, such as HSMs and SoftHSM2. The wire: token.

URI form (RFC 7512): `pkcs11:token=LABEL;object=LABEL`, or with `serial=` and `id=`; see `uri`.
Credentials: the PIN from PIPECRYPT_PKCS11_PIN, the file of `pin-source`, or the prompt. The module from `module-path`
or PIPECRYPT_PKCS11_MODULE; its code runs in this process.
Permissions: CKA_ENCRYPT to write and CKA_DECRYPT to read, for an AES key of 256 bits; CKA_SIGN for a private key on
P-256 or P-384, or RSA, whose public key lies beside it under the same CKA_ID or label. The mechanisms CKM_AES_GCM with
a nonce from the caller, CKM_ECDSA, CKM_SHA256_RSA_PKCS_PSS.

Data files store `pkcs11/<serial number>/<CKA_ID in hexadecimal>`, or `pkcs11/<serial number>/label/<label>` where the
key has no id. `pipecrypt-id` in the reference gives that text for a replica under another serial number. The wrapped
form of a KEK is sealed by the token::

    nonce (12) || ciphertext (32) || tag (16)       AES-256-GCM, random nonce (SP 800-38D 8.2.2), AAD as below

    part(label) || part(master key id) || context.key_binding()      part(x) = length (8 hex digits) || x
"""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import Any, Final
from urllib.parse import quote

from pipecrypt.crypto.aead import NONCE_BYTES, TAG_BYTES, random_bytes
from pipecrypt.crypto.signature import PublicKey, SignatureAlgorithm, pem_text
from pipecrypt.errors import IntegrityError, KeyNotFoundError, UsageError
from pipecrypt.keys.credentials import Credentials
from pipecrypt.keys.reference import KeyReference
from pipecrypt.keys.services.pkcs11.library import package
from pipecrypt.keys.services.pkcs11.token import TokenSession, open_token
from pipecrypt.keys.services.pkcs11.uri import TokenKey, parse_token_key
from pipecrypt.keys.services.wrapping import bind_to_master_key, generate_and_wrap
from pipecrypt.keys.signers import WithPublicKey
from pipecrypt.vocabulary.context import Context
from pipecrypt.vocabulary.secret import DATA_KEY_BYTES, DataKey

__all__ = ["SERVICE", "TokenMasterKey", "TokenService", "TokenSigner"]

_SCHEME: Final = "pkcs11"
_KEK_LABEL: Final = b"pipecrypt pkcs11 kek v1"
_WRAPPED_BYTES: Final = NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES
_DIGESTS: Final = {SignatureAlgorithm.ECDSA_P256: "sha256", SignatureAlgorithm.ECDSA_P384: "sha384"}
_PSS_SALT_BYTES: Final = 32


class TokenMasterKey:
    """A 256-bit AES key in a token.

    Args:
        session: the login; owned, and closed by `wipe`.
        key: the token's object.
        key_id: what data files store.
    """

    __slots__ = ("_id", "_key", "_session")

    def __init__(self, session: TokenSession, key: Any, key_id: str) -> None:
        """Keep them."""
        self._session = session
        self._key = key
        self._id = key_id

    @property
    def id(self) -> str:
        """What data files store."""
        return self._id

    def generate_key(self, context: Context) -> tuple[DataKey, bytes]:
        """Return a fresh 256-bit key and its wrapped form; one call to the token.

        Raises:
            KeyServiceError: the token failed or refused.
        """
        return generate_and_wrap(self.wrap_key, context)

    def wrap_key(self, key: DataKey, context: Context) -> bytes:
        """Return the wrapped form of a key that exists already; one call to the token.

        Raises:
            KeyServiceError: the token failed or refused.
        """
        nonce = random_bytes(NONCE_BYTES)
        return nonce + self._session.encrypt(self._key, nonce, bytes(key.expose_key_bytes()), self._aad(context))

    def unwrap_key(self, wrapped: bytes, context: Context) -> DataKey:
        """Return the key that `wrapped` holds; one call to the token.

        Raises:
            KeyServiceError: the token failed or refused.
            IntegrityError: `wrapped` was not made by this master key for `context`.
        """
        refusal = f"the key encryption key was not wrapped by master key {self._id} for this dataset"
        if len(wrapped) != _WRAPPED_BYTES:
            raise IntegrityError(refusal)
        nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        try:
            return DataKey(self._session.decrypt(self._key, nonce, sealed, self._aad(context)))
        except (IntegrityError, ValueError) as error:
            raise IntegrityError(refusal) from error

    def wipe(self) -> None:
        """Let go of the token; the last key of this process logs out."""
        self._session.close()

    def __repr__(self) -> str:
        """Show the id."""
        return f"<TokenMasterKey {self._id}>"

    def _aad(self, context: Context) -> bytes:
        return bind_to_master_key(_KEK_LABEL, self._id, context)


class TokenSigner(WithPublicKey):
    """A private key in a token that signs.

    Args:
        session: the login; owned, and closed by `wipe`.
        key: the token's object.
        public_key: its public half.
    """

    __slots__ = ("_key", "_session")

    def __init__(self, session: TokenSession, key: Any, public_key: PublicKey) -> None:
        """Keep them."""
        super().__init__(public_key)
        self._session = session
        self._key = key

    def sign(self, message: bytes) -> bytes:
        """Return a signature of `message`; one call to the token.

        Raises:
            KeyServiceError: the token failed or refused.
        """
        p11 = package()
        if self._public_key.algorithm is SignatureAlgorithm.RSA_PSS:
            parameters = (p11.Mechanism.SHA256, p11.MGF.SHA256, _PSS_SALT_BYTES)
            return self._session.sign(self._key, message, p11.Mechanism.SHA256_RSA_PKCS_PSS, parameters)
        # Digested here, because CKM_ECDSA is what all tokens have; they return r || s.
        digest = hashlib.new(_DIGESTS[self._public_key.algorithm], message).digest()
        signature = self._session.sign(self._key, digest, p11.Mechanism.ECDSA)
        return bytes(p11.util.ec.encode_ecdsa_signature(signature))

    def wipe(self) -> None:
        """Let go of the token; the last key of this process logs out."""
        self._session.close()


class TokenService:
    """The key service of the scheme `pkcs11`."""

    def open_key(self, reference: KeyReference, credentials: Credentials) -> TokenMasterKey:
        """Log in, and find a master key.

        Raises:
            KeyReferenceError: the reference is none of RFC 7512, or holds a PIN.
            MissingExtraError: python-pkcs11 is not installed.
            KeyNotFoundError: the token or the key is missing.
            UsageError: several tokens or keys fit, or the key is no AES key of 256 bits.
            PassphraseError: the PIN is missing, wrong or locked.
            KeyServiceError: the module cannot be loaded, or the token failed.
        """
        wanted = parse_token_key(reference, key_type="secret-key")
        session = open_token(wanted, credentials)
        try:
            p11 = package()
            key = session.find_key(wanted, private=False)
            kind, size = (session.attribute(key, name) for name in (p11.Attribute.KEY_TYPE, p11.Attribute.VALUE_LEN))
            if kind != p11.KeyType.AES or size != DATA_KEY_BYTES:
                raise UsageError(
                    f"{wanted.text} is no AES key of 256 bits", hint="make one in the token, or name another"
                )
            return TokenMasterKey(session, key, _stored_id(p11, session, key, wanted))
        except BaseException:
            session.close()
            raise

    def open_signer(self, reference: KeyReference, credentials: Credentials) -> TokenSigner:
        """Log in, and find a private key and its public half.

        Raises:
            KeyReferenceError: the reference is none of RFC 7512, or holds a PIN.
            MissingExtraError: python-pkcs11 is not installed.
            KeyNotFoundError: the token, the key or its public half is missing.
            UsageError: several tokens or keys fit, or the key is of an algorithm that signs nothing here.
            PassphraseError: the PIN is missing, wrong or locked.
            KeyServiceError: the module cannot be loaded, or the token failed.
        """
        wanted = parse_token_key(reference, key_type="private")
        session = open_token(wanted, credentials)
        try:
            key = session.find_key(wanted, private=True)
            return TokenSigner(session, key, _public_key(package(), session, key, wanted))
        except BaseException:
            session.close()
            raise


SERVICE: Final = TokenService()


def _stored_id(p11: ModuleType, session: TokenSession, key: Any, wanted: TokenKey) -> str:
    if wanted.stored_id is not None:
        return wanted.stored_id
    key_id = session.attribute(key, p11.Attribute.ID)
    place = key_id.hex() if key_id else f"label/{quote(str(wanted.label), safe='')}"
    return f"{_SCHEME}/{quote(session.serial, safe='')}/{place}"


def _public_key(p11: ModuleType, session: TokenSession, key: Any, wanted: TokenKey) -> PublicKey:
    # Whatever the token says is checked by who asked for a signature: it has to fit this public key.
    key_id = session.attribute(key, p11.Attribute.ID)
    label = None if key_id else wanted.label
    found = session.find(p11.ObjectClass.PUBLIC_KEY, label=label, key_id=key_id or None)
    if len(found) != 1:
        raise KeyNotFoundError(
            f"{wanted.text}: the token has no public key, or several, beside the private one",
            hint="store the public key under the same CKA_ID",
        )
    kind = session.attribute(key, p11.Attribute.KEY_TYPE)
    if kind == p11.KeyType.RSA:
        return PublicKey(pem_text("RSA PUBLIC KEY", session.read(lambda: p11.util.rsa.encode_rsa_public_key(found[0]))))
    if kind == p11.KeyType.EC:
        return PublicKey(pem_text("PUBLIC KEY", session.read(lambda: p11.util.ec.encode_ec_public_key(found[0]))))
    raise UsageError(f"{wanted.text} is of an algorithm that signs nothing here", hint="use P-256, P-384 or RSA")
