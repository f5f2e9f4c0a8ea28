"""Doubles for tests: key services and stores that fail on command. Nothing here may guard real data."""
