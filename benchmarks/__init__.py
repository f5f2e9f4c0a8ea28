"""Measurements, each answering one question, as ratios within one run. Correctness is left to the tests."""
