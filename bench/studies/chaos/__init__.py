"""Faults made on purpose behind a door, and what its users get: failed, repeated, cut and doubled answers, counted."""
