import json
import socket
from pathlib import Path

import pytest

from dashboards import theme
from dashboards.errors import SettingsError
from dashboards.settings import VARIABLE, DashboardSettings, from_environment, load


def test_flags_go_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "dashboard.toml"
    file.write_text('servers = ["http://a:8000/"]\nrefresh_s = 5\nport = 9000\n', encoding="utf-8")
    found = load(file, {"port": 9001, "runs": None})
    assert (found.servers, found.refresh_s, found.port, found.runs) == (("http://a:8000",), 5, 9001, Path("runs"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('serverz = ["http://a"]', "Did you mean servers"),
        ("refresh_s = 0.1", "refresh_s = 0.1"),
        ('prometheus = "ftp://localhost:9090"', "http://127.0.0.1:8000"),
        ('servers = ["http://me:secret@a:8000"]', "user or password"),
        ("servers = [", "not valid TOML"),
    ],
)
def test_a_bad_setting_is_named_with_what_would_work(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "dashboard.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=said) as caught:
        load(file, {})
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_address_may_be_short() -> None:
    assert load(None, {"servers": ["localhost:8000", ":8001/v1/"]}).servers == (
        "http://localhost:8000",
        "http://localhost:8001",
    )


def test_settings_reach_the_app_as_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert from_environment() == DashboardSettings()
    chosen = DashboardSettings(servers=("http://b:1",), prometheus="http://p:9090")
    monkeypatch.setenv(VARIABLE, chosen.model_dump_json())
    assert from_environment() == chosen
    monkeypatch.setenv(VARIABLE, "{}}")
    with pytest.raises(SettingsError, match=VARIABLE):
        from_environment()


def test_a_taken_port_is_said_with_another_one(nbridge) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = nbridge("dashboard", "--port", port)
    assert answer.returncode == 2
    assert f"port {port} on 127.0.0.1 is taken" in answer.stderr
    assert f"--port {port + 1}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unknown_setting_is_a_usage_error_on_the_command_line(nbridge, tmp_path: Path) -> None:
    file = tmp_path / "d.toml"
    file.write_text("windows_s = 3", encoding="utf-8")
    answer = nbridge("dashboard", "--settings", file)
    assert (answer.returncode, "window_s" in answer.stderr) == (2, True)


def test_colours_are_those_of_the_reports() -> None:
    from reports.figures import drawing

    light = theme.LIGHT
    assert light.series == drawing.ENGINES
    assert (light.ink, light.muted, light.grid, light.paper, light.shade) == (
        drawing.INK, drawing.MUTED, drawing.GRID, drawing.PAPER, drawing.SHADE,
    )  # fmt: skip
    sheet = (Path(drawing.__file__).parents[1] / "templates" / "report.css").read_text(encoding="utf-8")
    assert all(colour in sheet for colour in (*theme.DARK.series, theme.DARK.ink, theme.DARK.paper))


def test_the_theme_is_json_that_streamlit_knows() -> None:
    from streamlit import config

    known = config.get_config_options()
    assert set(theme.OPTIONS) <= set(known)
    json.dumps(theme.OPTIONS)
