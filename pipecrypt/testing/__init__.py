"""What tests of your own may use: a key service in memory."""

from pipecrypt.testing.memory_keys import MemoryCall, MemoryKeyService, MemoryMasterKey, use_memory_keys

__all__ = ["MemoryCall", "MemoryKeyService", "MemoryMasterKey", "use_memory_keys"]
