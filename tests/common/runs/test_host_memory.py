"""Freed memory: kept by glibc if asked to, and nothing else is touched."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import repo_layout
from funnel.runs import host_memory
from funnel.runs.host_memory import keep_freed_memory

COMMON = repo_layout.ROOT / "common"

COUNT_FAULTS = """
import os, resource, sys
from funnel.runs.host_memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory(os.environ)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(b"1") * 2**26
    del block
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, faults)
"""


def count_faults(mode):
    command = [sys.executable, "-c", COUNT_FAULTS, mode]
    own = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment["PYTHONPATH"] = str(COMMON)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, faults = run.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc")
def test_a_block_is_used_again_without_page_faults():
    kept, faults = count_faults("keep")
    assert kept
    assert faults < 10 < count_faults("leave")[1]


@pytest.mark.parametrize(
    "name", ["MALLOC_ARENA_MAX", "MALLOC_CONF", "GLIBC_TUNABLES", "LD_PRELOAD"]
)
def test_settings_of_the_user_stay(name, monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: pytest.fail("glibc was asked"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert not keep_freed_memory({"HOME": "/root", name: "1"})


@pytest.mark.parametrize(
    ("platform", "library"),
    [("darwin", SimpleNamespace(mallopt=None)), ("linux", SimpleNamespace(mallopt=None))],
)
def test_without_glibc_nothing_is_changed(platform, library, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: library)
    assert not keep_freed_memory({})


def test_a_refused_setting_is_reported(monkeypatch):
    library = SimpleNamespace(
        gnu_get_libc_version=None, mallopt=lambda name, value: int(name != -8)
    )
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: library)
    assert not keep_freed_memory({})
