"""What of a live rig has an emulator of its own: Frankas, ROS stacks, inputs; who uses them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from drivers.emulated.addresses import DESK_PASSWORD, DESK_PORT, DESK_USER
from drivers.emulated.operators.device import DeviceOperator
from drivers.emulated.plant import FRANKA
from drivers.emulated.stand_in import StandIn
from drivers.emulated.world import EmulatedWorld
from teleop.clock import Ticker, ns_from_s
from teleop.errors import RigError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_franka import FrankaArm, FrankaArmModel
from teleop.rig_inputs import OpenVrInput, SpaceMouse, WebXrInput
from teleop.rig_interbotix import InterbotixArm

if TYPE_CHECKING:
    from drivers.emulated.franka.server import FrankaEmulator
    from drivers.emulated.interbotix.ros_master import EmulatedRos

PUCK = "SpaceMouseCompact"
"""What an emulated puck is when the rig file does not say."""
SHOW_FRANKA_HZ = 100.0
"""How often the scene learns where the emulated Franka is."""


class StandIns:
    """Everything of the emulated rig that has its own emulator, and the operator who uses it.

    Args:
        world: The world whose scene the operator looks at.
        folder: Of the run.
        now_ns: The present time.

    Raises:
        DeviceError: something needed for an emulator is not installed, or it does not start.
    """

    def __init__(self, world: EmulatedWorld, folder: Path, now_ns: int) -> None:
        self._world = world
        self._folder = folder
        self._ticker = Ticker(ns_from_s(1 / SHOW_FRANKA_HZ), now_ns)
        self.franka: FrankaEmulator | None = None
        """To break things."""
        self.ros: EmulatedRos | None = None
        self.devices: dict[str, StandIn] = {}
        """By input, to break things."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        world = self._world
        for name, arm in world.rig.arms.items():
            if isinstance(arm, FrankaArm):
                self.franka = _franka(name, arm, world.rig)
                self.franka.start()
        self.ros = _ros(world, self._folder)
        if self.ros is not None:
            self.ros.start()
        self.devices = stand_ins(world.rig, self._folder)
        for device in dict.fromkeys(self.devices.values()):
            device.start()
        if not world.hands:
            return
        guided = [a for a in world.rig.followers.values() if a.input is not None]
        if guided:
            world.device_operators.append(DeviceOperator(world.plant, world.rig, self.devices))
        if self.franka is not None and world.rig.guided:
            from drivers.emulated.franka.operator import FrankaOperator

            world.device_operators.append(
                FrankaOperator(world.plant, self.franka, world.rig.arm_model(FRANKA))
            )

    def show(self, now_ns: int) -> None:
        """Let the scene follow the Franka, and the hands follow the scene."""
        if not self._ticker.due(now_ns):
            return
        self._ticker.advance(now_ns)
        if self.franka is not None:
            self._world.plant.show_franka(np.array(self.franka.state()["q"]))
        for operator in self._world.device_operators:
            operator.act(self._world.phase, now_ns / 1e9)

    def close(self) -> None:
        """Stop all emulators."""
        for device in dict.fromkeys(self.devices.values()):
            device.close()
        if self.ros is not None:
            self.ros.close()
        if self.franka is not None:
            self.franka.close()


def _ros(world: EmulatedWorld, folder: Path) -> EmulatedRos | None:
    rig = world.rig
    arms = {name: arm for name, arm in rig.arms.items() if isinstance(arm, InterbotixArm)}
    if not arms:
        return None
    from drivers.emulated.interbotix.ros_master import EmulatedRos

    models = {name: cast(DynamixelArmModel, rig.arm_model(name)) for name in arms}
    return EmulatedRos(arms, models, world.chains, folder, world.lock)


def stand_ins(rig: Rig, folder: Path) -> dict[str, StandIn]:
    """A stand-in for every input of motion, not yet started; a hub's inputs share one."""
    inputs = rig.inputs
    found: dict[str, StandIn] = {}
    for name, config in inputs.items():
        if isinstance(config, SpaceMouse):
            from drivers.emulated.spacemouse.hid_mouse import HidMouse

            found[name] = HidMouse(name, folder, config.device or PUCK)
    hands = {name: c for name, c in inputs.items() if isinstance(c, OpenVrInput)}
    if hands:
        from drivers.emulated.vr.runtime import VrRuntime

        found |= dict.fromkeys(hands, VrRuntime(hands))
    pages = {name: c for name, c in inputs.items() if isinstance(c, WebXrInput)}
    if pages:
        from drivers.emulated.webxr.headset import WebXrHeadset

        found |= dict.fromkeys(pages, WebXrHeadset(pages, rig.webxr))
    return found


def _franka(name: str, arm: FrankaArm, rig: Rig) -> FrankaEmulator:
    if name != FRANKA:
        raise RigError(rig.name, [f"arms.{name}: in the emulated rig a Franka is named {FRANKA}"])
    from drivers.emulated.franka.server import FrankaEmulator

    model = rig.arm_model(name)
    assert isinstance(model, FrankaArmModel)
    return FrankaEmulator(
        model.robot,
        arm.address,
        desk_port=DESK_PORT,
        start_rad=model.sleep_rad,
        desk_user=DESK_USER,
        desk_password=DESK_PASSWORD,
    )
