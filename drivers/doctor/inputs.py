"""The doctor's looks at input devices: SpaceMice, SteamVR, the headset's page, a Franka's pilot."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial

from drivers.base import InputDevice
from drivers.doctor.checks import (
    Check,
    guarded,
    health_check,
    install_udev,
    refusal_of,
    told,
)
from drivers.doctor.desk import desk_checks
from drivers.registry import open_input
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceLostError, TandemError
from teleop.rig import Rig
from teleop.rig_inputs import SpaceMouse, nodes_of

REST_S = 0.5
"""A puck's deflection counts from 0.3 s after opening."""
FOUND_S = 2.0
"""Controllers that are on are found within a quarter of a second; tracking may begin later."""
POLL_S = 0.05


def input_checks(rig: Rig, clock: Clock) -> Iterator[Check]:
    """All inputs, each hub once."""
    for node in nodes_of(rig.inputs):
        with contextlib.redirect_stdout(sys.stderr):  # vendors' packages print
            found = list(guarded(node, partial(_node_checks, node, rig, clock)))
        yield from found


def _node_checks(node: str, rig: Rig, clock: Clock) -> Iterator[Check]:
    names = nodes_of(rig.inputs)[node]
    driver = rig.inputs[names[0]].driver
    if driver == "spacemouse":
        yield from puck_checks(node, rig, clock)
    elif driver == "openvr":
        yield from steamvr_checks(node, names, rig, clock)
    elif driver == "franka_desk":
        yield from desk_checks(node, rig, clock)
    else:
        from drivers.doctor.webxr import page_checks

        yield from page_checks(node, rig, clock)


def puck_checks(name: str, rig: Rig, clock: Clock) -> Iterator[Check]:
    """One SpaceMouse: its library, its permission, and whether it lies at rest."""
    config = rig.inputs[name]
    assert isinstance(config, SpaceMouse)
    device, refusal = _opened(name, rig, clock)
    if device is None or refusal is not None:
        check = told("fail", name, str(refusal))
        if "permission denied" in check.seen:
            remedy = f"run: {install_udev()}, then plug it in anew"
            check = Check("fail", name, check.seen, remedy)
        yield check
        return
    try:
        _watch(device, clock, REST_S, until_well=False)
        where = config.path or "the only one there"
        yield health_check(name, device.health(), f"puck {where} opens and lies at rest", "warn")
    finally:
        device.close()


def steamvr_checks(node: str, names: tuple[str, ...], rig: Rig, clock: Clock) -> Iterator[Check]:
    """SteamVR, then each controller: on, tracked, its buttons heard, its battery."""
    device, refusal = _opened(node, rig, clock)
    if device is None or refusal is not None:
        yield told("fail", "SteamVR", str(refusal))
        return
    try:
        yield Check("ok", "SteamVR", "runs and lets this program in")
        try:
            _watch(device, clock, FOUND_S, until_well=True)
        except DeviceLostError as error:
            yield told("fail", "SteamVR", str(error))
            return
        health = device.health()
        for name in names:
            trouble = _part_of(health.detail, name, names)
            if trouble:  # switched on, or brought into sight, when the work begins
                yield told("warn", name, trouble)
            else:
                battery = health.values.get(f"{name}_battery")
                charge = "" if battery is None else f", battery {battery:.0%}"
                yield Check("ok", name, f"on and tracked{charge}")
    finally:
        device.close()


def _part_of(text: str, name: str, names: tuple[str, ...]) -> str:
    """What of a text about all controllers is about this one; may be empty."""
    part = f"; {text}".partition(f"; {name}: ")[2]
    for other in names:
        part = part.partition(f"; {other}: ")[0]
    return part


def _opened(node: str, rig: Rig, clock: Clock) -> tuple[InputDevice | None, TandemError | None]:
    """The device, connected; or why it is not."""
    try:
        device = open_input(node, rig, clock)
    except TandemError as error:  # its package is not installed
        return None, error
    refusal = refusal_of(device)
    if refusal is not None:
        device.close()
    return device, refusal


def _watch(device: InputDevice, clock: Clock, seconds: float, until_well: bool) -> None:
    """Take readings for a while, or until the device says that it is well.

    Raises:
        DeviceLostError: it went meanwhile.
    """
    end_ns = clock.now_ns() + ns_from_s(seconds)
    while (now_ns := clock.now_ns()) < end_ns:
        device.take(now_ns)
        if until_well and device.health().ok:
            return
        clock.sleep_until_ns(now_ns + ns_from_s(POLL_S))
