import json
import threading
from pathlib import Path

import pytest

from checkpoints import cache
from checkpoints.errors import CacheNotWritable, OutputExists


def build_text(directory: Path) -> dict:
    (directory / "text").write_text("hello")
    return {"name": "made", "kind": "trained"}


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NBRIDGE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("NBRIDGE_CACHE")
    assert cache.cache_dir() == tmp_path / "xdg" / "nbridge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_dir() == tmp_path / "home" / ".cache" / "nbridge"


def test_a_directory_is_built_once(tmp_path):
    built = []

    def build(directory):
        built.append(directory)
        return build_text(directory)

    first = cache.build_once(tmp_path / "made", build)
    second = cache.build_once(tmp_path / "made", build)
    assert len(built) == 1
    assert first == second
    assert first["files"]["text"]["bytes"] == 5


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "manifest"])
def test_a_damaged_directory_is_built_again_with_a_message(tmp_path, damage):
    target = tmp_path / "made"
    cache.build_once(target, build_text)
    if damage == "removed":
        (target / "text").unlink()
    elif damage == "manifest":
        (target / cache.MANIFEST).write_text("{")
    else:
        (target / "text").write_text("jello" if damage == "changed" else "hell")
    messages = []
    cache.build_once(target, build_text, messages.append)
    assert (target / "text").read_text() == "hello"
    assert len(messages) == 1
    assert "damaged" in messages[0]


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(directory):
        (directory / "half").write_text("x")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        cache.build_once(tmp_path / "made", build)
    assert [path.name for path in tmp_path.iterdir()] == [".made.lock"]


def test_what_a_killed_build_left_is_removed(tmp_path):
    stale = tmp_path / ".made.partial-abc"
    stale.mkdir()
    (stale / "half").write_text("x")
    cache.build_once(tmp_path / "made", build_text)
    assert not stale.exists()


def test_of_two_at_once_one_builds_and_the_other_waits(tmp_path):
    building, waiting = threading.Event(), threading.Event()
    built = []

    def slow(directory):
        built.append(directory)
        building.set()
        assert waiting.wait(300)
        return build_text(directory)

    def second_says(message):
        assert "waiting" in message
        waiting.set()

    first = threading.Thread(target=cache.build_once, args=(tmp_path / "made", slow))
    first.start()
    assert building.wait(300)
    manifest = cache.build_once(tmp_path / "made", slow, second_says)
    first.join()
    assert len(built) == 1
    assert manifest["name"] == "made"


def test_a_full_output_directory_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(OutputExists, match="not empty"), cache.new_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_an_empty_output_directory_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    with cache.new_directory(tmp_path / "out") as directory:
        (directory / "text").write_text("x")
    assert (tmp_path / "out" / "text").read_text() == "x"


def test_directory_checksum_changes_with_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = cache.directory_sha256(tmp_path)
    (tmp_path / "a").write_text("2")
    assert cache.directory_sha256(tmp_path) != before


def test_manifest_is_json_with_a_format(tmp_path):
    cache.build_once(tmp_path / "made", build_text)
    document = json.loads((tmp_path / "made" / cache.MANIFEST).read_text())
    assert document["format"] == cache.MANIFEST_FORMAT
    assert set(document["files"]) == {"text"}


def test_a_cache_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NBRIDGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CacheNotWritable, match="file/cache cannot be written: Not a directory") as error:
        cache.build_once(cache.checkpoints_dir() / "made", lambda _: {})
    assert error.value.exit_code == 3
