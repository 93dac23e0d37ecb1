"""Which engine is best, without measuring the whole grid: successive halving, honest about what it dropped. Pure."""
