"""Grafana boards as code: panel definitions, and the JSON that Grafana imports."""
