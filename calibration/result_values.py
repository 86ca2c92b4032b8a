"""What each kind of calibration result holds, validated when a file is read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from teleop.rig_parts import Angle, Model, Name

Finite = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[Finite, Finite, Finite]
Quaternion = tuple[Finite, Finite, Finite, Finite]
Row = tuple[Finite, Finite, Finite]


class Transform(Model):
    """A rigid transform."""

    position_m: Point
    quaternion_wxyz: Quaternion

    @model_validator(mode="after")
    def _is_rotation(self) -> Self:
        if abs(sum(q * q for q in self.quaternion_wxyz) - 1) > 1e-3:
            raise ValueError(f"quaternion {self.quaternion_wxyz} is not of length 1")
        return self


class ArmValues(Model):
    """Zeros of an arm's joints."""

    offsets_rad: dict[Name, Angle]
    """Added to what the servos report; all 0 with the factory zero."""
    reference: str
    """What was taken for the truth."""
    poses: int = Field(ge=0)


class GripperValues(Model):
    """Servo angles of an arm's gripper."""

    closed_rad: Angle
    open_rad: Angle

    @model_validator(mode="after")
    def _has_stroke(self) -> Self:
        if abs(self.open_rad - self.closed_rad) < 0.05:
            raise ValueError(f"closed {self.closed_rad} and open {self.open_rad} rad are the same")
        return self


class CameraValues(Model):
    """Intrinsics, as OpenCV has them."""

    width: int = Field(ge=16)
    height: int = Field(ge=16)
    matrix: tuple[Row, Row, Row]
    distortion: tuple[Finite, Finite, Finite, Finite, Finite]


class HandEyeValues(Model):
    """Where a camera is."""

    where: Literal["eye_in_hand", "eye_to_hand"]
    arm: Name
    camera: Transform
    """In the arm's tool (eye in hand) or base (eye to hand)."""
    board: Transform
    """In the arm's base (eye in hand) or tool (eye to hand)."""


class VrValues(Model):
    """Where an input's frame is."""

    arm: Name
    frame_in_base: Transform
    controller_in_tool: Transform | None = None
    operator_yaw_rad: Angle
    """Heading of the frame's forward direction in the arm's base."""


class LatencyValues(Model):
    """Delays of one arm, and of the cameras that watched it."""

    command_to_motion_s: Finite
    camera_to_row_s: dict[Name, Finite] = Field(default_factory=dict)
    """How much later a frame's stamp is than the stamp of an arm state of the same moment."""


Values = ArmValues | GripperValues | CameraValues | HandEyeValues | VrValues | LatencyValues
Kind = Literal["arm", "gripper", "camera", "hand_eye", "vr", "latency"]
VALUES: dict[Kind, type[Values]] = {
    "arm": ArmValues,
    "gripper": GripperValues,
    "camera": CameraValues,
    "hand_eye": HandEyeValues,
    "vr": VrValues,
    "latency": LatencyValues,
}
