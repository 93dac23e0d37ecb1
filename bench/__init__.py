"""Load and measurement: plans, workloads, Locust scenarios, records, statistics, the sweep."""
