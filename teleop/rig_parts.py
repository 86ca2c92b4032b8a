"""Parts that the models of a rig description share: base class, bounded numbers, names."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Vector = tuple[float, ...]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ServoId = Annotated[int, Field(ge=0, le=252)]
Angle = Annotated[float, Field(ge=-2 * math.pi, le=2 * math.pi)]
"""Joint or servo angle, rad: one turn each way. Servos of these arms do a single turn, so more
is degrees, or a slip of the decimal point."""
ServoSpeed = Annotated[float, Field(gt=0, le=10.0)]
"""rad/s. The fastest servo of these arms turns 4.8 without load (XM430-W350, 46 rpm; XM540-W270:
30 rpm, 3.14; ROBOTIS e-manual), here doubled: above that a limit limits nothing."""
ServoAcceleration = Annotated[float, Field(gt=0, le=200.0)]
"""rad/s^2. From rest to the fastest servo's speed in 24 ms; above that a limit limits nothing."""
ApproachSpeed = Annotated[float, Field(gt=0, le=3.14)]
"""rad/s, of moves that nobody steers by hand: at most the slowest servo's full speed."""


class Model(BaseModel):
    """Base of all parts: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JointSpec(Model):
    """What every kind of arm tells of a joint."""

    name: Name
    min_rad: Angle
    max_rad: Angle
    max_velocity_rad_s: ServoSpeed | None = None
    """Overrides the model-wide limit."""
    max_acceleration_rad_s2: ServoAcceleration | None = None


class Workspace(Model):
    """A box that the tool stays in, m, in the frame of the arm's base (x forward, z up)."""

    min_m: tuple[float, float, float]
    max_m: tuple[float, float, float]


class ArmModelBase(Model):
    """What every kind of arm has beyond its own joints and gripper."""

    max_velocity_rad_s: ServoSpeed
    max_acceleration_rad_s2: ServoAcceleration
    start_rad: Vector
    sleep_rad: Vector
    kinematics: str | None = None
    """A model of ``teleop/models`` by name, or the path of an MJCF file (``.xml``, relative to the
    rig file); needed to be guided in Cartesian space."""
    tool: str = "tcp"
    """The site of that model which is guided."""
    workspace: Workspace | None = None
    """Where Cartesian teleoperation may take the tool."""


class ArmBase(Model):
    """What every arm of a rig has."""

    model: Name
    """A key of ``arm_models``."""
    leader: Name | None = None
    """For a follower: the leader arm it mirrors in teleoperation."""
    input: Name | None = None
    """For a follower: the input device, a key of ``inputs``, that guides its tool."""
    operator_yaw_rad: float | None = Field(default=None, ge=-2 * math.pi, le=2 * math.pi)
    """Where the operator looks, as a heading in the arm's base frame: 0 along its x axis. None
    takes what ``tandem calibrate vr`` measured, else 0."""
