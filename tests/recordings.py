"""A run as it was once recorded; the published reference run is measured anew now and then, this one stays."""

from pathlib import Path

RECORDED = Path(__file__).parent / "recorded" / "cpu-2-cores-default"
