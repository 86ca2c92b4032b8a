"""SteamVR comes, goes, refuses and is not there: what the driver does and says."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from drivers.vr.controller import OpenVrHub
from teleop.clock import NS_PER_S, MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from tests.drivers.vr_bench import (
    Open,
    Session,
    hand_at,
    inputs_of,
    run_python,
    sessions,
    skip_without_openvr,
)

skip_without_openvr()


@pytest.fixture
def open_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Makes sessions and closes them after the test."""
    with sessions(tmp_path, monkeypatch) as make:
        yield make


# SteamVR comes and goes


def test_a_quit_is_acknowledged_at_once(open_session: Open) -> None:
    """SteamVR kills a client that stays 5 s; we are out with the first reading after it."""
    session = open_session()
    session.take()
    session.runtime.quit()
    told_ns = session.clock.now_ns()
    with pytest.raises(DeviceLostError, match="SteamVR: was closed; start it again"):
        session.take()
    assert 0 < session.runtime.acknowledged_ns() - told_ns < 0.1 * NS_PER_S
    assert session.runtime.counts()["cleanups"] == 1
    health = session.hub.health()
    assert (health.ok, "was closed" in health.detail) == (False, True)


def test_steamvr_is_taken_up_again(open_session: Open) -> None:
    """Not sooner than 5 s after it went, then every 2 s, and the poses go on."""
    session = open_session()
    session.runtime.move("hand", hand_at(0.25))
    session.take()
    session.runtime.quit()
    attempts = session.runtime.counts()["attempts"]

    def refused_at(seconds: float) -> int:
        session.clock.ahead_ns = int(seconds * NS_PER_S)
        for _ in range(3):
            with pytest.raises(DeviceLostError):
                session.take()
            time.sleep(0.02)  # for an attempt that would be too early to be seen
        return session.runtime.counts()["attempts"] - attempts

    assert refused_at(0.0) == 0
    assert refused_at(4.0) == 0
    session.clock.ahead_ns = 6 * NS_PER_S
    session.wait(lambda: _refused(session, "is not running; start it"))
    assert session.runtime.counts()["attempts"] - attempts == 1
    assert refused_at(6.5) == 1
    session.runtime.restart()
    session.clock.ahead_ns = 9 * NS_PER_S
    session.wait(lambda: not _refused(session, ""))
    assert session.take()["hand"].position_m[0] == pytest.approx(0.25)
    assert session.hub.health().ok
    assert session.runtime.counts()["unlisted_calls"] == 0


def _refused(session: Session, words: str) -> bool:
    try:
        session.take()
    except DeviceLostError as error:
        return words in str(error)
    return False


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (121, "SteamVR is not running; start it, it is tried again"),
        (119, "SteamVR is shutting down; start it again"),
        (108, "SteamVR finds no headset; connect it, or tell SteamVR to run without"),
        (301, "SteamVR does not answer; restart it"),
        (105, "do not fit; update SteamVR"),
        (138, "look at its status window .VRInitError_Init_FirmwareUpdateBusy, 138."),
        (9999, "look at its status window"),
    ],
)
def test_why_steamvr_cannot_be_used_is_said_in_words(
    open_session: Open, code: int, words: str
) -> None:
    """With SteamVR's own name of the error for whoever searches for it."""
    session = open_session(connect=False)
    session.runtime.fail_init(code)
    with pytest.raises(DeviceError, match=words):
        session.hub.connect()
    session.runtime.fail_init(0)
    session.hub.connect()
    assert session.take()["hand"].tracked


def test_a_folder_without_a_runtime_is_named(open_session: Open, tmp_path: Path) -> None:
    """SteamVR is not installed, or the folder is the wrong one."""
    open_session(connect=False)
    hub = OpenVrHub(inputs_of(tmp_path / "nowhere", hand="left"), MonotonicClock())
    with pytest.raises(DeviceError, match="SteamVR was not found; install it with Steam"):
        hub.connect()


def test_a_second_client_in_one_process_is_refused(open_session: Open, tmp_path: Path) -> None:
    """OpenVR would let it in, and the first to leave would crash the other."""
    first = open_session()
    second = OpenVrHub(inputs_of(tmp_path / "0", hand="right"), MonotonicClock())
    with pytest.raises(DeviceError, match="this process has an OpenVR client already"):
        second.connect()
    first.hub.close()
    second.connect()
    assert second.take(0)["hand"][0].tracked
    second.close()


def test_inputs_of_two_runtimes_are_refused(open_session: Open, tmp_path: Path) -> None:
    """One process, one SteamVR."""
    inputs = inputs_of(tmp_path / "a", one="left") | inputs_of(tmp_path / "b", two="right")
    with pytest.raises(DeviceError, match="inputs one, two name different runtimes"):
        OpenVrHub(inputs, MonotonicClock()).connect()


def test_nothing_is_called_after_closing(open_session: Open) -> None:
    """The library is unloaded then: a call would be a crash, a new client a surprise."""
    session = open_session()
    session.take()
    session.hub.cue("hand", "engaged", 1.0)
    session.hub.close()
    before = session.runtime.counts()
    session.clock.ahead_ns = 60 * NS_PER_S
    for _ in range(3):
        with pytest.raises(DeviceLostError):
            session.take()
    session.hub.cue("hand", "engaged", 1.0)
    assert not session.hub.health().ok
    session.hub.close()
    assert session.runtime.counts() == before


# Haptics


def test_a_cue_is_felt_as_a_buzz(open_session: Open) -> None:
    """A row of pulses at the controller, as long as the cue is strong, 5 ms or more apart."""
    session = open_session(one="left", two="right")
    session.take()
    session.hub.cue("two", "engaged", 0.5)
    session.wait(lambda: bool(session.take()) and len(session.runtime.haptics()) >= 8)
    for _ in range(10):
        session.clock.ahead_ns += 10_000_000
        session.take()
    pulses = session.runtime.haptics()
    assert len(pulses) == 8
    assert {pulse.device for pulse in pulses} == {session.runtime.index_of("two")}
    assert {pulse.duration_us for pulse in pulses} == {2000}
    assert min(b.stamp_ns - a.stamp_ns for a, b in pairwise(pulses)) >= 5_000_000


def test_a_cue_for_nobody_is_no_matter(open_session: Open) -> None:
    """Unknown input, controller off, no pulse: nothing is raised, nothing buzzes."""
    session = open_session()
    session.take()
    session.hub.cue("nobody", "engaged", 1.0)
    session.hub.cue("hand", "engaged", 0.0)
    session.runtime.unplug("hand")
    session.hub.cue("hand", "lost", 1.0)
    session.take()
    assert session.runtime.haptics() == []


# What the machine lacks


def test_a_library_of_another_machine_is_said_in_words(tmp_path: Path) -> None:
    """As on aarch64, where the package installs and its x86-64 library does not load."""
    import openvr

    package = Path(openvr.__file__).parent
    copy = shutil.copytree(package, tmp_path / "openvr")
    shutil.copyfile(package / "libopenvr_api_32.so", copy / "libopenvr_api_64.so")
    words = run_python(_CONNECT_AND_PRINT, PYTHONPATH=str(tmp_path))
    assert "openvr's library does not load on this x86_64 Linux" in words
    assert "SteamVR exists for x86-64 only" in words


def test_a_missing_package_names_its_extra(tmp_path: Path) -> None:
    """One sentence with the command to run."""
    (tmp_path / "openvr.py").write_text("raise ModuleNotFoundError(name='openvr')\n")
    words = run_python(_CONNECT_AND_PRINT, PYTHONPATH=str(tmp_path))
    assert "a SteamVR controller needs openvr, which is not installed" in words
    assert "pip install 'tandem-rig[vr]'" in words


_CONNECT_AND_PRINT = """
from drivers.vr.controller import OpenVrHub
from teleop.clock import MonotonicClock
from teleop.errors import TandemError
from teleop.rig_inputs import OpenVrInput
try:
    OpenVrHub({"hand": OpenVrInput(hand="left")}, MonotonicClock()).connect()
except TandemError as error:
    print(error)
"""
