"""The key services, one sub-room or file for each scheme. What a key service is, and finding one: keys/service.py."""
