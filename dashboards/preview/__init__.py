"""Grafana boards drawn without Grafana: the same panels and queries, answered by a Prometheus, as one HTML page."""
