"""``tandem doctor``: looks at every part of the rig, and says what to mend.

Devices are opened by the drivers that use them later, so that what passes here works there.
Nothing moves and torque is left as found. Settings of servos on a bus of our own that differ from
the rig file are put right, as at every start, and told; nobody else's are. A part that fails
hides no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from drivers.doctor import machine, network, udev
from drivers.doctor.calibration import calibrated, calibration_checks
from drivers.doctor.cameras import CameraTrial, camera_checks, recording_rate, try_cameras
from drivers.doctor.checks import Check, failed, guarded, install_udev, told
from drivers.doctor.inputs import input_checks
from drivers.doctor.ports import rival_checks
from drivers.doctor.servos import servo_arm_checks
from drivers.doctor.usb import usb_checks
from drivers.emulated_rig import emulated_rig
from teleop.clock import Clock, MonotonicClock
from teleop.errors import RigError, TandemError
from teleop.rig import Rig
from teleop.rig_files import load_rig


def examine(hardware: Path, emulate: bool, out: Path) -> Iterator[Check]:
    """All checks, each given out as soon as it is known.

    Args:
        hardware: The rig file.
        emulate: Start the emulated rig and look at that.
        out: Folder that episodes would be recorded into.
    """
    yield from machine.package_checks(emulate)
    try:
        rig = load_rig(hardware)
    except RigError as error:
        for fault in error.faults:
            yield told("fail", "rig file", f"{error.source}: {fault}")
        return
    counts = [(len(rig.arms), "arm"), (len(rig.inputs), "input"), (len(rig.cameras), "camera")]
    parts = ", ".join(f"{count} {what}{'s'[: count != 1]}" for count, what in counts)
    yield Check("ok", "rig file", f"{hardware}: {rig.name}, {parts}")
    yield from machine.rig_package_checks(rig, emulate)
    yield from machine.machine_checks(rig, emulate)
    with contextlib.ExitStack() as stack:
        emulator: tuple[int, ...] = ()
        if emulate:
            try:
                rig, pid = stack.enter_context(emulated_rig(rig))
            except TandemError as error:
                yield failed("emulated rig", error)
                return
            emulator = (pid,)
            yield Check("ok", "emulated rig", "runs")
        else:
            yield from surrounding_checks(rig)
        yield from part_checks(rig, hardware, out, MonotonicClock(), emulator)


def surrounding_checks(rig: Rig) -> Iterator[Check]:
    """What a real rig shares a machine and a network with."""
    keys = list(network.key_checks(rig))
    yield from keys
    if all(check.status == "ok" for check in keys):  # else the topics only say the same
        yield network.topic_checks(rig)
    yield from network.peer_checks(rig)
    if lacking := udev.missing(rig):
        seen = f"no udev rule for {' and '.join(lacking)}"
        yield Check("warn", "udev", seen, f"run: {install_udev()}")
    yield from rival_checks(rig)
    yield from guarded("usb", partial(usb_checks, rig))


def part_checks(
    rig: Rig, hardware: Path, out: Path, clock: Clock, emulator: Collection[int]
) -> Iterator[Check]:
    """Calibration, arms, inputs, cameras and the disk, each whatever becomes of the others."""
    yield from guarded("calibration", partial(calibration_checks, rig, hardware))
    rig = calibrated(rig, hardware)
    for name in sorted(rig.arms):
        yield from guarded(name, partial(arm_checks, name, rig, clock, emulator))
        yield from guarded(f"{name} kinematics", partial(kinematics_checks, name, rig))
    yield from input_checks(rig, clock)
    trials: list[CameraTrial] = []
    yield from guarded("cameras", partial(all_camera_checks, rig, clock, trials))
    yield from machine.disk_checks(rig, out, recording_rate(rig, trials))


def all_camera_checks(rig: Rig, clock: Clock, trials: list[CameraTrial]) -> Iterator[Check]:
    """All cameras at once; what was seen of them goes into ``trials``."""
    trials += try_cameras(rig, clock)
    for trial in trials:
        yield from camera_checks(trial, rig.recording.min_rate_fraction)


def kinematics_checks(name: str, rig: Rig) -> Iterator[Check]:
    """Whether an arm that an input guides has a model with its joints and its tool."""
    if rig.arms[name].input is None:
        return
    from teleop.kinematics import ArmKinematics

    model = rig.arm_model(name)
    ArmKinematics.of(model)
    yield Check("ok", f"{name} kinematics", f"{model.kinematics}, guided at its {model.tool}")


def arm_checks(
    name: str,
    rig: Rig,
    clock: Clock,
    emulator: Collection[int] = (),
    sysfs: Path = Path("/sys"),
) -> Iterator[Check]:
    """One arm, by its driver.

    Args:
        name: The arm's name in the rig.
        rig: The rig.
        clock: Times the readings.
        emulator: Processes that may have a serial port open.
        sysfs: Where the kernel shows USB adapters.
    """
    driver = rig.arms[name].driver
    if driver == "franka":
        from drivers.doctor.franka import franka_checks

        return franka_checks(name, rig, clock)
    if driver == "interbotix":
        from drivers.doctor.interbotix import node_checks

        return node_checks(name, rig, clock)
    return servo_arm_checks(name, rig, clock, emulator, sysfs)
