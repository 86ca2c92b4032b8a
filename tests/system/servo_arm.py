"""One arm of an example rig, on an emulated servo bus in this process and in real time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drivers.base import CameraDevice
from drivers.dynamixel.port import ServoPort
from drivers.emulated.addresses import VIRTUAL
from drivers.emulated.dynamixel.bank import ServoBank, axes_of
from drivers.emulated.dynamixel.chain import chains_of
from drivers.emulated.dynamixel.virtual_port import VirtualPort
from teleop.clock import NS_PER_S, Clock, MonotonicClock
from teleop.errors import UnknownNameError
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_files import load_rig

CLOCK = MonotonicClock()
ROOT = Path(__file__).parents[2]
ARM = "left_follower"
ARM_HZ = 100.0
WATCHDOG_S = 2.54
"""The longest there is: a busy machine that keeps this process waiting is no fault of the arm."""
LAG_S = 0.03
"""Of the emulated joints behind the goals of their servos."""


def chain_rig(name: str, inputs: dict[str, dict[str, Any]], **parts: Any) -> Rig:
    """One of the example rigs with one arm, whose bus is emulated in this process.

    Args:
        name: Of the file in ``docs/rigs``.
        inputs: What to replace in its inputs, by name; the others are left out.
        parts: Other parts of the rig to replace.
    """
    rig = load_rig(ROOT / "docs" / "rigs" / f"{name}.yaml")
    arm = rig.arms[ARM].model_dump() | {"port": f"{VIRTUAL}{ARM}"}
    kept = {input: rig.inputs[input].model_dump() | fields for input, fields in inputs.items()}
    rates = rig.rates.model_dump() | {"arm_hz": ARM_HZ}
    safety = rig.safety.model_dump() | {"bus_watchdog_s": WATCHDOG_S}
    own = {"arms": {ARM: arm}, "inputs": kept, "cameras": {}, "rates": rates, "safety": safety}
    return rig.replaced(**(own | parts))


class ServoWorld:
    """The servo bus of one arm; its joints follow their goals with a lag."""

    def __init__(self, rig: Rig, name: str) -> None:
        bank = ServoBank(axes_of(rig))
        self.chain = chains_of(rig, bank)[name]
        self._bank = bank
        model = rig.arm_model(name)
        assert isinstance(model, DynamixelArmModel)
        assert model.gripper is not None
        self._joints = [bank.index(name, joint.name) for joint in model.joints]
        bank.angle_rad[self._joints] = model.start_rad  # So that homing takes no time.
        bank.angle_rad[bank.index(name, "gripper")] = model.gripper.open_rad
        bank.goal_rad[:] = bank.angle_rad
        self._now_ns = CLOCK.now_ns()

    @property
    def goal_rad(self) -> FloatArray:
        """What the servos were last told, shape (J,)."""
        return self._bank.goal_rad[self._joints].copy()

    def advance_to(self, now_ns: int) -> None:
        part = 1 - np.exp(-(now_ns - self._now_ns) / NS_PER_S / LAG_S)
        self._now_ns = now_ns
        self._bank.angle_rad += part * (self._bank.goal_rad - self._bank.angle_rad)
        self.chain.advance(now_ns)

    def arm_port(self, name: str, clock: Clock) -> ServoPort:
        return VirtualPort(self.chain, clock)

    def camera(self, name: str) -> CameraDevice:
        raise UnknownNameError("camera", name, ())

    def close(self) -> None: ...
