"""The files that a run's tables can become."""

from enum import StrEnum


class Format(StrEnum):
    """What `nbridge export --to` takes. JSON is one object a line."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"
