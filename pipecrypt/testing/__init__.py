"""What tests of your own may use: a key service in memory."""

from pipecrypt.testing.memory_keys import MemoryCall, MemoryKeyService, MemoryMasterKey

__all__ = ["MemoryCall", "MemoryKeyService", "MemoryMasterKey"]
