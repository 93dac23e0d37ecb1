"""Alert rules and their thresholds, Prometheus, Alertmanager, and the stack that runs them."""
