"""The SpaceMouse driver, with the real pyspacemouse and easyhid reading emulated HID reports."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from ctypes.util import find_library
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from drivers.base import PuckReading
from drivers.emulated.spacemouse.hid_mouse import MODELS
from drivers.emulated.stand_in import PuckPush
from drivers.spacemouse.puck import UDEV_RULE, identify, probe
from teleop.clock import NS_PER_S, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from tests.drivers.puck_bench import CLOCK, PATIENCE_S, REST, Bench, StallingClock, push
from tests.waiting import wait_until

if find_spec("pyspacemouse") is None:  # Imported by the driver only: it binds to one hidapi.
    pytest.skip("pyspacemouse is not installed", allow_module_level=True)

LATE_NS = ns_from_s(0.25)
"""How late a thread may be on a busy machine."""


def is_about(twist: FloatArray, reading: PuckReading) -> bool:
    return np.allclose([*reading.linear, *reading.angular], twist, atol=0.002)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


# Motion and buttons


@pytest.mark.parametrize("model", ["SpaceMouseCompact", "SpaceMouseWireless"])
def test_a_push_arrives_in_the_axes_of_ros(bench: Bench, model: str) -> None:
    """Forward is x, left is y, up is z, about the same axes; with one report and with two."""
    puck = bench.puck("puck", model=model)
    hand = bench.driver(deadzone=0.0).settle()
    for axis in range(6):
        twist = np.zeros(6)
        twist[axis] = 0.6
        puck.move("puck", PuckPush(twist[:3], twist[3:]))
        hand.wait(partial(is_about, twist), f"a push along axis {axis}")
    puck.move("puck", REST)
    hand.wait_for_rest()


def test_a_puck_at_rest_is_told_as_zeros_and_is_well(bench: Bench) -> None:
    """Silence of the device is no silence of the input."""
    bench.puck("puck")
    hand = bench.driver()
    wait_until(lambda: hand.look() is not None and len(hand.told) > 20, "twenty readings")
    assert not any(r.linear.any() or r.angular.any() or r.buttons for r in hand.told)
    assert hand.device.health().ok


def test_a_tap_between_two_looks_is_not_missed(bench: Bench) -> None:
    """Press and release are told even when nobody asked in between."""
    puck = bench.puck("puck")
    hand = bench.driver().settle()
    puck.flood([push(0, 0, 0, 0, "button_0"), REST, push(0, 0, 0, 0, "button_1"), REST])
    wait_until(lambda: (hand.device.health().values["reports"]) >= 12, "the reports to be read")
    hand.look()
    changes = [buttons for buttons, _ in groupby(hand.told, lambda r: r.buttons)]
    assert changes == [frozenset(), {"button_0"}, frozenset(), {"button_1"}, frozenset()]


def test_buttons_bear_the_numbers_of_the_report(bench: Bench) -> None:
    """A SpaceMouse Pro's key "1" is bit 12, whatever order pyspacemouse lists it in."""
    puck = bench.puck("puck", model="SpaceMousePro")
    hand = bench.driver()
    puck.move("puck", push(0, 0, 0, 0, "button_12", "button_26"))
    hand.wait(lambda r: r.buttons == {"button_12", "button_26"}, "both buttons")


def test_a_held_puck_counts_for_as_long_as_it_is_held(bench: Bench) -> None:
    """It repeats its reports, so no silence is seen."""
    puck = bench.puck("puck")
    hand = bench.driver(silence_s=0.5).settle()
    puck.move("puck", push(0.5))
    start = hand.wait_for_motion()
    hand.told.clear()
    hand.wait(lambda r: r.stamp_ns > start.stamp_ns + NS_PER_S, "a second of motion")
    assert all(r.linear[0] > 0.4 for r in hand.told)


# Faults


def test_a_puck_that_falls_silent_while_pushed_reads_zero(bench: Bench) -> None:
    """After the silence that the rig file allows; health says so until it is let go."""
    puck = bench.puck("puck")
    hand = bench.driver(silence_s=0.3).settle()
    puck.move("puck", push(0.8))
    hand.wait_for_motion()
    puck.fall_silent(True)
    rest = hand.wait_for_rest()
    moving = [r for r in hand.told if r.linear.any()][-1]
    assert ns_from_s(0.3) < rest.stamp_ns - moving.stamp_ns < ns_from_s(0.3) + LATE_NS
    health = hand.device.health()
    assert not health.ok
    assert health.detail.startswith("puck: fell silent while deflected")
    hand.told.clear()
    puck.fall_silent(False)
    puck.move("puck", REST)
    wait_until(lambda: hand.device.health().ok, "it to be believed again")
    assert not any(r.linear.any() for r in hand.told)
    puck.move("puck", push(0.8))
    hand.wait_for_motion()


def test_a_puck_unplugged_while_pushed_is_let_go_at_once_and_comes_back(bench: Bench) -> None:
    """Zero and no buttons first, then its loss by name; plugged in again it is found again."""
    puck = bench.puck("puck")
    hand = bench.driver().settle()
    puck.move("puck", push(0.8, 0, 0, 0, "button_0"))
    hand.wait_for_motion()
    pulled_ns = CLOCK.now_ns()
    puck.unplug()
    assert "plug" in hand.wait_for_loss()
    last = hand.told[-1]
    assert not last.linear.any()
    assert last.buttons == frozenset()
    assert last.stamp_ns - pulled_ns < LATE_NS
    health = hand.device.health()
    assert not health.ok
    assert health.values["losses"] == 1
    wait_until(lambda: "is not there" in hand.device.health().detail, "it to be looked for")
    puck.plug()
    wait_until(lambda: hand.look() is not None and not hand.lost, "the puck to come back")
    hand.settle()
    assert hand.device.health().ok
    puck.move("puck", push(0.8))
    hand.wait_for_motion()


def test_a_puck_plugged_in_while_pushed_moves_nothing_until_let_go(bench: Bench) -> None:
    """Coming back must not start a motion."""
    puck = bench.puck("puck")
    hand = bench.driver()
    puck.move("puck", push(0.8))
    wait_until(lambda: "was deflected" in hand.device.health().detail, "the refusal in words")
    hand.look()
    assert not any(r.linear.any() for r in hand.told)
    puck.move("puck", REST)
    wait_until(lambda: hand.device.health().ok, "the puck to be believed")
    puck.move("puck", push(0.8))
    hand.wait_for_motion()


def test_a_flood_of_reports_ends_in_the_newest_state(bench: Bench) -> None:
    """More than the kernel keeps at once, release included: nothing stays pushed or pressed."""
    puck = bench.puck("puck")
    hand = bench.driver().settle()
    for _ in range(10):
        puck.flood([push(0.9, 0, 0, 0, "button_0")] * 300 + [REST])
        puck.flood([push(-0.9, 0, 0, 0, "button_1")] * 5 + [REST])
    end_ns = CLOCK.now_ns()
    hand.wait(lambda r: r.stamp_ns > end_ns + ns_from_s(0.15), "the flood to be over")
    assert not hand.told[-1].linear.any()
    assert hand.told[-1].buttons == frozenset()


def test_a_release_that_the_kernel_dropped_does_not_leave_puck_and_button_held(
    bench: Bench,
) -> None:
    """The thread was held up for longer than the kernel keeps reports: the release is lost."""
    clock = StallingClock()
    puck = bench.puck("puck")
    hand = bench.driver(clock=clock).settle()
    clock.stall()
    puck.flood([push(0.9, 0, 0, 0, "button_0")] * 100 + [REST])
    wait_until(lambda: CLOCK.now_ns() > puck.sent_ns + ns_from_s(0.05), "the puck to be silent")
    hand.told.clear()
    clock.go_on()
    hand.wait(lambda _: any(r.linear.any() for r in hand.told), "what was kept of the push")
    rest = hand.wait_for_rest()
    assert rest.buttons == frozenset()
    assert any("button_0" in r.buttons for r in hand.told)
    values = hand.device.health().values
    assert (values["overruns"], values["silences"]) == (1, 1)


def test_reports_are_taken_though_nobody_looks(bench: Bench) -> None:
    """A second of a busy node is no second of old motion afterwards."""
    puck = bench.puck("puck")
    hand = bench.driver().settle()
    puck.move("puck", push(0.9))
    at_least = hand.device.health().values["reports"] + 150
    wait_until(lambda: hand.device.health().values["reports"] > at_least, "150 reports")
    puck.move("puck", REST)
    wait_until(lambda: CLOCK.now_ns() > puck.sent_ns + ns_from_s(0.1), "the puck to be silent")
    newest = hand.look()
    assert newest is not None
    assert not newest.linear.any()


def test_a_missing_permission_is_named_with_its_remedy(bench: Bench) -> None:
    """Refused at the start, and after the udev rule is there it opens."""
    puck = bench.puck("puck")
    puck.refuse(True)
    with pytest.raises(DeviceError, match=r"^puck: .*permission denied; install the udev rule"):
        bench.driver()
    puck.refuse(False)
    bench.driver().settle()


def test_a_library_that_is_not_there_is_named(bench: Bench) -> None:
    """With the file that the rig file asks for."""
    with pytest.raises(DeviceError, match=r"^puck: hidapi does not load \(/nowhere/libhidapi"):
        bench.driver(library="/nowhere/libhidapi.so.0")
    with pytest.raises(DeviceError, match="is no hidapi; correct `library`"):
        bench.driver(library=find_library("c"))


@pytest.mark.skipif(find_library("hidapi-hidraw") is not None, reason="hidapi is installed here")
def test_a_missing_hidapi_is_named_with_its_package() -> None:
    """pyspacemouse itself imports without it and fails later."""
    look = "from drivers.spacemouse.puck import probe; print(*probe().faults)"
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert "sudo apt install libhidapi-hidraw0" in told.stdout


# Which puck


def test_two_pucks_are_told_apart_by_their_paths(bench: Bench) -> None:
    """Of the same model, and also when both were pulled and came back in the other order."""
    left, right = bench.puck("left"), bench.puck("right")
    left_hand, right_hand = bench.driver("left").settle(), bench.driver("right").settle()
    for first, second in ((right, left), (left, right)):
        left.move("left", push(y=0.7))
        right.move("right", push(y=-0.7))
        left_hand.wait(lambda r: r.linear[1] > 0.5, "the left puck's push")
        right_hand.wait(lambda r: r.linear[1] < -0.5, "the right puck's push")
        before = left.link.resolve()
        left.unplug()
        right.unplug()
        left_hand.wait_for_loss()
        right_hand.wait_for_loss()
        first.plug()
        second.plug()
        assert left.link.resolve() != before
        left_hand.settle()
        right_hand.settle()
    assert all(r.linear[1] >= 0 for r in left_hand.told)
    assert all(r.linear[1] <= 0 for r in right_hand.told)


def test_the_only_puck_needs_no_path(bench: Bench) -> None:
    """Found by its USB ids."""
    puck = bench.puck("puck", model="SpaceNavigator")
    hand = bench.driver(path=None).settle()
    puck.move("puck", push(z=0.5))
    hand.wait(lambda r: r.linear[2] > 0.4, "a push upwards")


def test_of_two_pucks_none_is_guessed(bench: Bench) -> None:
    """The refusal names both paths; the kind settles it where they differ."""
    bench.puck("left")
    bench.puck("right", model="SpaceMouseWireless")
    with pytest.raises(DeviceError, match=r"2 pucks.*hidraw0.*hidraw1.*set `path`"):
        bench.driver(path=None)
    bench.driver(path=None, device="SpaceMouseWireless").settle()


def test_the_interface_of_a_receiver_is_found_by_pushing(bench: Bench) -> None:
    """Five look alike; the one that talks is it."""
    faces = [bench.puck(f"face{i}", model="UniversalReceiver", interface=i) for i in range(5)]
    found: list[str] = []
    library = str(bench.config().library)
    search = threading.Thread(target=lambda: found.append(identify(CLOCK, library, PATIENCE_S)))
    search.start()
    wait_until(lambda: all(face.opened for face in faces), "all to be opened")
    faces[1].move("face1", push(0.5))
    search.join(PATIENCE_S)
    assert found == [str(faces[1].link.resolve())]


def test_what_is_not_there_is_named(bench: Bench) -> None:
    """No puck, no such path, a path that is something else, a kind nobody knows."""
    bench.puck("other").unplug()
    for fields, words in (
        ({"path": None}, "no puck found.*; plug it in"),
        ({}, "puck-puck is not there; plug the puck in"),
        ({"path": "/dev/null"}, "/dev/null is not seen as a HID device"),
        ({"device": "SpaceMouseCompacts"}, "did you mean SpaceMouseCompact"),
    ):
        with pytest.raises(DeviceError, match=words):
            bench.driver(**fields)


def test_nobody_moves_the_puck_that_is_to_be_identified(bench: Bench) -> None:
    """It says which pucks it watched."""
    bench.puck("puck")
    with pytest.raises(DeviceError, match=r"none of .*hidraw0 moved in 0\.2 s"):
        identify(CLOCK, str(bench.config().library), 0.2)


# Lamp, doctor


def test_the_lamp_shows_the_state(bench: Bench) -> None:
    """Off, on while engaged, blinking while lost, off when closed; on again after a re-plug."""
    puck = bench.puck("puck")
    hand = bench.driver()
    wait_until(lambda: puck.lamp is False, "the lamp to be off")
    hand.device.cue("puck", "engaged", 0.0)
    wait_until(lambda: puck.lamp is True, "the lamp to be on")
    assert puck.lamp_writes[-1] == b"\x00\x04\x01"
    puck.unplug()
    puck.lamp_writes.clear()
    puck.plug()
    wait_until(lambda: puck.lamp is True, "the lamp to be on again")
    hand.device.cue("puck", "lost", 0.0)
    puck.lamp_writes.clear()
    wait_until(lambda: len(puck.lamp_writes) >= 4, "the lamp to blink")
    assert {w[2] for w in puck.lamp_writes[-2:]} == {0, 1}
    hand.device.cue("puck", "engaged", 0.0)
    wait_until(lambda: puck.lamp is True, "the lamp to be on")
    hand.device.close()
    wait_until(lambda: puck.lamp is False, "the lamp to be off")


def test_the_doctor_is_told_what_opens_and_what_does_not(bench: Bench) -> None:
    """Pucks by path and kind, faults as sentences with a remedy."""
    good, shut = bench.puck("good"), bench.puck("shut", model="SpaceNavigator")
    shut.refuse(True)
    library = str(bench.config().library)
    seen = probe(library)
    assert seen.pucks == {str(good.link.resolve()): "SpaceMouseCompact"}
    assert len(seen.faults) == 1
    assert "permission denied" in seen.faults[0]
    good.unplug()
    shut.unplug()
    assert "no puck found" in probe(library).faults[0]


def test_the_udev_rule_covers_every_puck_and_no_keyboard() -> None:
    """Logitech's vendor number is opened for pucks only."""
    for model in MODELS.values():
        if model.vendor == 0x046D:
            assert f"{model.product:04x}" in UDEV_RULE
    logitech = [line for line in UDEV_RULE.splitlines() if "046d" in line]
    assert len(logitech) == 1
    assert "idProduct" in logitech[0]
