"""From the rig description to device objects: the only place that knows of emulation.

A device whose address is ``virtual:NAME`` lives in the world of the lockstep runner; every
other address is a real path or URL, even when an emulator stands behind it.
"""

from __future__ import annotations

from typing import Protocol, cast

from drivers.base import Arm, CameraDevice
from drivers.dynamixel_port import QuietPort, ServoPort
from drivers.emulated.addresses import VIRTUAL
from drivers.viperx import DynamixelArm
from teleop.clock import Clock
from teleop.errors import DeviceError, UnknownNameError
from teleop.node import World
from teleop.rig import Rig


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
    """
    if name not in rig.arms:
        raise UnknownNameError("arm", name, rig.arms)
    arm = rig.arms[name]

    def open_port() -> ServoPort:
        if arm.port.startswith(VIRTUAL):
            virtual = _world_of(name, arm.port, world)
            port = virtual.arm_port(arm.port.removeprefix(VIRTUAL), clock)
            port.baudrate = arm.baud
            return port
        return QuietPort(arm.port, clock, arm.baud)

    return DynamixelArm(name, arm, rig.arm_model(name), open_port, rig.safety.bus_watchdog_s)


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
    from drivers.opencv_camera import OpenCvCamera

    return OpenCvCamera(name, camera, clock)


def _world_of(name: str, address: str, world: World | None) -> DeviceWorld:
    if world is None:
        raise DeviceError(
            f"{name}: {address} exists only in the lockstep emulation; "
            "run with --lockstep or give a real address"
        )
    return cast(DeviceWorld, world)
