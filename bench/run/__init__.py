"""A run as it lies on disk, and what follows from it: records, store, statistics, reconciliation, validity."""
