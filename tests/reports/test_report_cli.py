import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from reports.cli import report


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(report)
    return app


def test_json_is_one_document_on_stdout(nine_run: Path) -> None:
    result = CliRunner().invoke(_app(), [str(nine_run), "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["files"]["html"] == str(nine_run / "report.html")
    assert len(document["files"]["figures"]) == 5
    assert document["cells"][0]["metrics"]["requests"]["ok"] == 6
    assert document["verdict"][0].startswith("For throughput, take int8: ")
    assert document["statements"][0].startswith("Three engine configurations")


def test_text_ends_with_the_files(nine_run: Path) -> None:
    result = CliRunner().invoke(_app(), [str(nine_run)])
    assert result.exit_code == 0
    assert result.stdout.split()[:5] == ["engine", "load", "valid", "output", "tok/s"]
    assert "\nFor throughput, take int8: " in result.stdout
    assert str(nine_run / "report.html") in result.stdout
