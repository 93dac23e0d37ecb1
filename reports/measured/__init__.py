"""What a report reads: cells with metrics recomputed from their records, distributions, repeats."""
