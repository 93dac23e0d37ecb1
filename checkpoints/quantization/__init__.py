"""Quantized copies of a checkpoint."""
