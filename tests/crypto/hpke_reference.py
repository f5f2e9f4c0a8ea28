"""HPKE written a second time from RFC 9180, receiver only, to check the library's against; slow and for tests only."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

X25519, XWING = 0x0020, 0x647A
AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305 = 1, 2, 3
ENC_BYTES = {X25519: 32, XWING: 1120}
_KEY_BYTES = {AES_128_GCM: 16, AES_256_GCM: 32, CHACHA20_POLY1305: 32}
_HKDF_SHA256 = 1


@dataclass(frozen=True)
class Schedule:
    shared_secret: bytes
    key: bytes
    base_nonce: bytes


def receive(kem: int, aead: int, private: bytes, enc: bytes, info: bytes) -> Schedule:
    """RFC 9180 5.1 with mode_base: decapsulate, then the key schedule."""
    shared_secret = _decapsulate_x25519(private, enc) if kem == X25519 else _decapsulate_xwing(private, enc)
    suite = b"HPKE" + _two(kem) + _two(_HKDF_SHA256) + _two(aead)
    context = b"\0" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    secret = _extract(suite, shared_secret, b"secret", b"")
    return Schedule(
        shared_secret,
        _expand(suite, secret, b"key", context, _KEY_BYTES[aead]),
        _expand(suite, secret, b"base_nonce", context, 12),
    )


def open_first(kem: int, aead: int, private: bytes, sealed: bytes, info: bytes, aad: bytes = b"") -> bytes:
    enc, ciphertext = sealed[: ENC_BYTES[kem]], sealed[ENC_BYTES[kem] :]
    schedule = receive(kem, aead, private, enc, info)
    cipher = ChaCha20Poly1305(schedule.key) if aead == CHACHA20_POLY1305 else AESGCM(schedule.key)
    return cipher.decrypt(schedule.base_nonce, ciphertext, aad)


def _decapsulate_x25519(private: bytes, enc: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    dh = key.exchange(X25519PublicKey.from_public_bytes(enc))
    suite = b"KEM" + _two(X25519)
    pseudorandom = _extract(suite, b"", b"eae_prk", dh)
    return _expand(suite, pseudorandom, b"shared_secret", enc + key.public_key().public_bytes_raw(), 32)


def _decapsulate_xwing(seed: bytes, enc: bytes) -> bytes:
    expanded = hashlib.shake_256(seed).digest(96)
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    mlkem_secret = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(enc[:1088])
    x25519_secret = x25519.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
    label = b"\\.//^\\"
    return hashlib.sha3_256(
        mlkem_secret + x25519_secret + enc[1088:] + x25519.public_key().public_bytes_raw() + label
    ).digest()


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
    assert size <= 32  # one block of HKDF is enough here
    text = _two(size) + b"HPKE-v1" + suite + label + info
    return hmac.digest(secret, text + b"\x01", "sha256")[:size]


def _two(number: int) -> bytes:
    return number.to_bytes(2, "big")
