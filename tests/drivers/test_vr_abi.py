"""Building the emulated OpenVR runtime from what the installed package says."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.emulated.vr import abi as vr_abi
from drivers.emulated.vr.runtime import VrRuntime
from teleop.errors import DeviceError
from tests.drivers.vr_bench import Client, inputs_of, skip_without_openvr

skip_without_openvr()


def test_a_call_that_nobody_serves_is_counted(tmp_path: Path) -> None:
    """So that the other tests' claim to have been served is one."""
    made = VrRuntime(inputs_of(tmp_path, left="left"))
    made.start()
    ask = Client(made.runtime)
    try:
        ask("vs := openvr.init(openvr.VRApplication_Background)")
        ask("vs.getD3D9AdapterIndex()")
        assert made.counts()["unlisted_calls"] == 1
    finally:
        ask.kill()
        made.close()


def test_the_library_is_built_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the user's cache, under a name made of what went into it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = vr_abi.library()
    assert built.parent == tmp_path / "tandem"
    first = built.stat().st_mtime_ns
    assert vr_abi.library() == built
    assert built.stat().st_mtime_ns == first
    assert [path.name for path in built.parent.iterdir()] == [built.name]


def test_a_machine_without_a_compiler_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to install."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="no gcc to build it; install gcc"):
        vr_abi.library()
