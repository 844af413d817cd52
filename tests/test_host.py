"""The facts about this very machine."""

from __future__ import annotations

import sys

from packaging.tags import sys_tags
from packaging.version import Version

from plugin_manager import _host
from plugin_manager._host import this_host


def test_facts_are_those_of_this_interpreter_and_machine(tmp_path):
    host = this_host(Version("1.2"), tmp_path)
    assert host.version == Version("1.2")
    assert host.python.release == sys.version_info[:3]
    assert host.tags == tuple(map(str, sys_tags()))
    assert host.bytecode_tag == next(sys_tags()).interpreter
    assert host.memory_bytes is None or host.memory_bytes > 2**20
    assert host.free_disk_bytes is not None
    assert host.rank("any") is not None
    assert host.rank("py3-none-any") is not None


def test_disk_is_that_of_the_nearest_directory_that_exists(tmp_path, monkeypatch):
    asked = []

    class Usage:
        free = 7

    def disk_usage(place):
        asked.append(place)
        if not place.exists():
            raise FileNotFoundError
        return Usage

    monkeypatch.setattr(_host.shutil, "disk_usage", disk_usage)
    assert this_host(None, tmp_path / "a" / "b").free_disk_bytes == 7
    assert asked == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]


def test_facts_that_cannot_be_had_are_unknown(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError

    monkeypatch.setattr(_host.shutil, "disk_usage", fails)
    monkeypatch.setattr(_host.os, "sysconf", fails)
    host = this_host(None, tmp_path)
    assert (host.memory_bytes, host.free_disk_bytes) == (None, None)


def test_tags_are_looked_up_when_a_platform_asks_for_them(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(_host, "_tags", lambda: asked.append(1) or ("py3-none-any",))
    host = this_host(None, tmp_path)
    assert host.rank("any") is not None
    assert not asked
    assert host.rank("py3-none-any") == 0
    assert asked
