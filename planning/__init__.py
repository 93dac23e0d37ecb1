"""Arithmetic and dated facts: memory, capacity, cost, claims and the choice of a model."""
