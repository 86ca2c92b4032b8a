"""From the rig description to device objects: the only place that knows of emulation.

A device whose address is ``virtual:NAME`` lives in the world of the lockstep runner; every
other address is a real path or URL, even when an emulator stands behind it. Each driver's module
is imported when one of its devices is opened: their vendors' packages are extras.
"""

from __future__ import annotations

from typing import Protocol, cast

from drivers.base import Arm, CameraDevice, InputDevice
from drivers.dynamixel.port import QuietPort, ServoPort
from drivers.dynamixel.viperx import DynamixelArm
from drivers.emulated.addresses import VIRTUAL
from teleop.clock import Clock
from teleop.errors import DeviceError, UnknownNameError
from teleop.node import World
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm as DynamixelConfig
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_franka import FrankaArm, FrankaArmModel
from teleop.rig_inputs import FrankaPilot, OpenVrInput, SpaceMouse, WebXrInput, nodes_of
from teleop.rig_interbotix import InterbotixArm


class DeviceWorld(World, Protocol):
    """An emulated rig in virtual time, as its devices are reached."""

    def arm_port(self, name: str, clock: Clock) -> ServoPort:
        """A fresh, closed port onto the servo bus of an arm."""

    def camera(self, name: str) -> CameraDevice:
        """A camera of the emulated scene."""


def open_arm(name: str, rig: Rig, clock: Clock, world: World | None) -> Arm:
    """The driver of a named arm, not yet connected.

    Raises:
        UnknownNameError: the rig has no such arm.
        DeviceError: its address is virtual and there is no world for it.
        MissingExtraError: the driver's package is not installed.
    """
    if name not in rig.arms:
        raise UnknownNameError("arm", name, rig.arms)
    arm, model = rig.arms[name], rig.arm_model(name)
    if isinstance(arm, FrankaArm):
        from drivers.franka.arm import FrankaArmDriver

        return FrankaArmDriver(name, arm, cast(FrankaArmModel, model), clock)
    if isinstance(arm, InterbotixArm):
        from drivers.interbotix.arm import InterbotixArm as InterbotixDriver

        return InterbotixDriver(name, arm, cast(DynamixelArmModel, model), clock)
    return _dynamixel_arm(name, rig, arm, cast(DynamixelArmModel, model), clock, world)


def _dynamixel_arm(
    name: str,
    rig: Rig,
    arm: DynamixelConfig,
    model: DynamixelArmModel,
    clock: Clock,
    world: World | None,
) -> Arm:
    def open_port() -> ServoPort:
        if arm.port.startswith(VIRTUAL):
            virtual = _world_of(name, arm.port, world)
            port = virtual.arm_port(arm.port.removeprefix(VIRTUAL), clock)
            port.baudrate = arm.baud
            return port
        return QuietPort(arm.port, clock, arm.baud)

    return DynamixelArm(name, arm, model, open_port, rig.safety.bus_watchdog_s)


def open_input(node: str, rig: Rig, clock: Clock) -> InputDevice:
    """The device behind an input node, not yet connected.

    Args:
        node: One of ``teleop.rig_inputs.nodes_of``.
        rig: The rig description.
        clock: Stamps what is read.

    Raises:
        UnknownNameError: the rig has no such input.
        MissingExtraError: the driver's package is not installed.
    """
    nodes = nodes_of(rig.inputs)
    if node not in nodes:
        raise UnknownNameError("input", node, nodes)
    configs = {name: rig.inputs[name] for name in nodes[node]}
    config = configs[nodes[node][0]]
    if isinstance(config, SpaceMouse):
        from drivers.spacemouse.puck import SpaceMouseDevice

        return SpaceMouseDevice(node, config, clock)
    if isinstance(config, FrankaPilot):
        from drivers.franka.pilot import FrankaPilot as PilotDevice

        return PilotDevice(node, config, clock)
    if isinstance(config, OpenVrInput):
        from drivers.vr.controller import OpenVrHub

        return OpenVrHub(cast(dict[str, OpenVrInput], configs), clock)
    from drivers.webxr.hub import WebXrHub

    return WebXrHub(cast(dict[str, WebXrInput], configs), rig.webxr, clock)


def open_camera(name: str, rig: Rig, clock: Clock, world: World | None) -> CameraDevice:
    """The driver of a named camera, not yet connected.

    Raises:
        UnknownNameError: the rig has no such camera.
        DeviceError: its address is virtual and there is no world for it.
    """
    if name not in rig.cameras:
        raise UnknownNameError("camera", name, rig.cameras)
    camera = rig.cameras[name]
    source = str(camera.source)
    if source.startswith(VIRTUAL):
        return _world_of(name, source, world).camera(source.removeprefix(VIRTUAL))
    from drivers.camera.opencv_camera import OpenCvCamera

    return OpenCvCamera(name, camera, clock)


def _world_of(name: str, address: str, world: World | None) -> DeviceWorld:
    if world is None:
        raise DeviceError(
            f"{name}: {address} exists only in the lockstep emulation; "
            "run with --lockstep or give a real address"
        )
    return cast(DeviceWorld, world)
