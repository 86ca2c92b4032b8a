"""What every device driver offers to its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from teleop.messages import ArmState, FloatArray, Frame


@dataclass(frozen=True, slots=True, eq=False)
class ArmReading:
    """One simultaneous reading of an arm, in its own joint order; see ``ArmState``."""

    stamp_ns: int
    position_rad: FloatArray
    velocity_rad_s: FloatArray
    effort: FloatArray
    """Motor current in A, or joint torque in N m; NaN where there is no sensor."""
    gripper: float | None
    gripper_velocity: float | None
    gripper_effort: float | None

    def as_state(self, seq: int) -> ArmState:
        """The same as a message."""
        return ArmState(
            stamp_ns=self.stamp_ns,
            seq=seq,
            position_rad=self.position_rad,
            velocity_rad_s=self.velocity_rad_s,
            effort=self.effort,
            gripper=self.gripper,
            gripper_velocity=self.gripper_velocity,
            gripper_effort=self.gripper_effort,
        )


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """What a device says of itself between readings."""

    ok: bool = True
    detail: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """By name with the unit in it, such as ``shoulder_temperature_c``."""
    lasting: bool = False
    """Whether the trouble stays until somebody acts: motors that shut down, or lost their
    torque other than by command. ``Arm.reboot_failed``, then ``Arm.set_torque``, mend it."""


class Arm(Protocol):
    """An arm that can be read, held, moved and let go."""

    joint_names: tuple[str, ...]
    has_gripper: bool

    def connect(self) -> None:
        """Open, check and configure; torque is left as it was found.

        Raises:
            DeviceError: naming the device, what was seen and what to do.
        """

    def read(self) -> ArmReading:
        """Read all joints.

        Raises:
            DeviceError: no valid reading after the configured retries; the device may recover.
            DeviceLostError: the device is gone and must be opened again.
        """

    def write(self, position_rad: FloatArray, gripper: float | None) -> None:
        """Set the goal of every joint, rad, and the gripper's opening (None: leave it).

        Joints without torque take no goal.
        """

    def set_torque(self, joints: bool, gripper: bool) -> None:
        """Switch torque; switching on holds the present position first."""

    def torque_off(self) -> list[str]:
        """Torque off everywhere, whatever fails on the way; returns the failures in words."""

    def reboot_failed(self) -> list[str]:
        """Restart every motor that reports a hardware error; its joint is limp afterwards.

        Returns:
            The motors restarted, in words; ``set_torque`` makes them hold again.

        Raises:
            DeviceError: a motor did not come back.
            DeviceLostError: the device is gone and must be opened again.
        """

    def poll_health(self) -> DeviceHealth:
        """One small step of the slow round-robin read (temperature, voltage, errors).

        Looks at the torque of all motors first when a reading has failed since the last call:
        a silent arm may have been without power.

        Raises:
            DeviceError: no valid answer; the device may recover.
            DeviceLostError: the device is gone and must be opened again.
        """

    def close(self) -> None:
        """Leave the arm holding, disarm its watchdog, release the port. Never raises."""


@dataclass(frozen=True, slots=True, eq=False)
class TraceSample:
    """One sample of an arm's own control loop; see ``ArmTrace``."""

    stamp_ns: int
    robot_ms: int
    position_rad: FloatArray
    velocity_rad_s: FloatArray
    torque_nm: FloatArray
    external_torque_nm: FloatArray


@runtime_checkable
class TracingArm(Protocol):
    """An arm that also tells every sample of its own control loop."""

    def trace(self) -> Sequence[TraceSample]:
        """All samples since the last call, oldest first."""


@runtime_checkable
class PushingArm(Protocol):
    """An arm whose motors can push while a person guides it, instead of being off."""

    torque_per_ampere: FloatArray
    """Joint torque per ampere of each of its motors, N m/A, joints and then the gripper; known
    once connected. NaN where there is no current control: such a joint is limp when let go."""

    def set_push(self, joints: bool, gripper: bool) -> None:
        """Ready the motors of what ``set_torque`` has let go to push; with no current yet.

        Until the next ``set_torque`` they go limp when nothing is heard from us.

        Raises:
            DeviceError: naming every motor that does not obey; it is limp.
            DeviceLostError: the device is gone and must be opened again.
        """

    def push(self, current_a: FloatArray) -> None:
        """Set the current of each motor that is to push, joints and then the gripper.

        Raises:
            SafetyError: a current is not a finite number.
            DeviceError: the motors had gone limp after a silence; they push with nothing now.
            DeviceLostError: the device is gone and must be opened again.
        """


@dataclass(frozen=True, slots=True, eq=False)
class HandReading:
    """A tracked controller or hand; frame and ranges as in ``PoseInput``."""

    stamp_ns: int
    position_m: FloatArray
    quaternion_wxyz: FloatArray
    tracked: bool
    trigger: float
    squeeze: float
    stick: FloatArray
    buttons: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class PuckReading:
    """A rate device; axes as in ``TwistInput``."""

    stamp_ns: int
    linear: FloatArray
    angular: FloatArray
    buttons: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class ButtonReading:
    """Buttons alone."""

    stamp_ns: int
    buttons: frozenset[str]


InputReading = HandReading | PuckReading | ButtonReading


class InputDevice(Protocol):
    """One or several inputs of the rig, read without waiting."""

    def connect(self) -> None:
        """Open the device.

        Raises:
            DeviceError: naming the device, what was seen and what to do.
        """

    def take(self, now_ns: int) -> Mapping[str, Sequence[InputReading]]:
        """All readings since the last call by input name, oldest first.

        Raises:
            DeviceLostError: the device is gone; the node goes on asking, and the device looks
                for it again at a bounded rate.
        """

    def cue(self, name: str, state: str, pulse: float) -> None:
        """Show a state (``InputCue``), give a haptic pulse, as far as it can. Never raises."""

    def show(self, camera: str, frame: Frame) -> None:
        """A camera's newest picture, for devices with a display. Never raises."""

    def health(self) -> DeviceHealth:
        """How it is doing."""

    def close(self) -> None:
        """Release the device. Never raises."""


class CameraDevice(Protocol):
    """A camera whose newest frame can be taken without waiting."""

    def connect(self) -> None:
        """Open the device and apply its settings.

        Raises:
            DeviceError: naming the device, what was seen and what to do.
        """

    def take(self, now_ns: int) -> list[Frame]:
        """All frames captured since the last call, oldest first; ``seq`` counts captures.

        Raises:
            DeviceLostError: the camera is gone; the node goes on asking for it.
        """

    def health(self) -> DeviceHealth:
        """Rate, repeats, drops, settings as read back."""

    def close(self) -> None:
        """Release the device. Never raises."""
