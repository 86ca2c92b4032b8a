"""One Franka: its emulator in a process of its own, and our driver."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from drivers.emulated.franka.server import FrankaEmulator
from drivers.franka.arm import FrankaArmDriver
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig_franka import FrankaArm, FrankaArmModel, FrankaGripper
from teleop.rig_parts import JointSpec

RANGES_RAD = {
    "fr3": (
        *((-2.75, 2.75), (-1.79, 1.79), (-2.91, 2.91), (-3.05, -0.15)),
        *((-2.81, 2.81), (0.54, 4.52), (-3.02, 3.02)),
    ),
    "panda": (
        *((-2.89, 2.89), (-1.76, 1.76), (-2.89, 2.89), (-3.07, -0.07)),
        *((-2.89, 2.89), (-0.01, 3.75), (-2.89, 2.89)),
    ),
}
HOME_RAD = np.array([0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398])
PATIENCE_S = 20.0
Connect = Callable[..., FrankaArmDriver]


def model(robot: str = "fr3", **changed: Any) -> FrankaArmModel:
    """A Franka with its hand."""
    joints = tuple(
        JointSpec(name=f"joint{i + 1}", min_rad=low, max_rad=high)
        for i, (low, high) in enumerate(RANGES_RAD[robot])
    )
    fields: dict[str, Any] = {
        "robot": robot,
        "joints": joints,
        "gripper": FrankaGripper(),
        "max_velocity_rad_s": 2.0,
        "max_acceleration_rad_s2": 10.0,
        "start_rad": tuple(HOME_RAD),
        "sleep_rad": tuple(HOME_RAD),
    }
    return FrankaArmModel(**(fields | changed))


def driver(
    address: str, role: str, kind: FrankaArmModel | None = None, **changed: Any
) -> FrankaArmDriver:
    """Our driver for whatever is at the address."""
    arm = FrankaArm.model_validate({"model": "m", "role": role, "address": address} | changed)
    return FrankaArmDriver("franka", arm, kind or model(), MonotonicClock())


def q_of(emulator: FrankaEmulator) -> FloatArray:
    """Where the arm really is, shape (7,)."""
    return np.array(emulator.state()["q"])


@pytest.fixture
def emulator() -> Iterator[FrankaEmulator]:
    """An FR3 at its home pose."""
    with FrankaEmulator("fr3") as robot:
        yield robot


@pytest.fixture
def connect(emulator: FrankaEmulator) -> Iterator[Connect]:
    """Makes connected drivers for the emulated FR3."""
    made: list[FrankaArmDriver] = []

    def one(role: str, **changed: Any) -> FrankaArmDriver:
        kind = changed.pop("kind", None)
        arm = driver(emulator.host, role, kind, **changed)
        made.append(arm)
        arm.connect()
        return arm

    yield one
    for arm in made:
        with contextlib.suppress(DeviceError):  # It may be lost, or closed.
            arm.reboot_failed()
        arm.close()
