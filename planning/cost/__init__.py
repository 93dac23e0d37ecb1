"""API or own hardware: assumptions with ranges, what a month costs, where it breaks even."""
