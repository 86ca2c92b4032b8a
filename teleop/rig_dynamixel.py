"""Arms of Dynamixel servos, as a rig description tells them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from teleop.rig_parts import (
    Angle,
    ArmBase,
    ArmModelBase,
    JointSpec,
    Model,
    Name,
    Positive,
    ServoId,
)

FeelCurrent = Annotated[float, Field(gt=0, le=1.5)]
"""Current of one motor that helps a hand, A. A WidowX 250 stretched out needs 1.1 A in each of its
shoulder's two servos, which stall at 2.3 A (XM430-W350; ROBOTIS e-manual): above 1.5 A a cap is
none."""


class ServoJoint(JointSpec):
    """One joint moved by one servo, or by two that share the load."""

    id: ServoId
    servo: str
    """Servo model, for example ``XM540-W270``; checked by ping at start."""
    reverse: bool = False
    """Drive mode bit 0 of the servo with ``id``."""
    shadow_id: ServoId | None = None
    """A second servo on the same joint, mirroring the first by its Secondary ID."""
    shadow_reverse: bool = False
    position_p: int | None = Field(default=None, ge=0, le=16383)
    """Position gain register 84; None keeps the servo's factory gain."""
    position_d: int | None = Field(default=None, ge=0, le=16383)


class ServoGripper(Model):
    """The gripper servo and what its angles mean."""

    id: ServoId
    servo: str
    closed_rad: Angle
    open_rad: Angle
    reverse: bool = False
    operating_mode: Literal["position", "current_based_position"] = "position"
    current_limit_a: Positive | None = None
    """Goal current in current-based position mode: the most the fingers may press with."""
    max_velocity_1_s: Positive = 4.0
    """Limit of the opening's rate of change, full strokes per second."""
    horn_radius_m: Positive | None = None
    """Crank geometry of the Interbotix fingers, used for finger distance in metres."""
    arm_length_m: Positive | None = None


class DynamixelArmModel(ArmModelBase):
    """A kind of arm: servos, limits, poses. Each number's source stands in the file."""

    driver: Literal["dynamixel"] = "dynamixel"
    joints: tuple[ServoJoint, ...] = Field(min_length=1)
    gripper: ServoGripper | None = None
    profile_velocity_rad_s: float = Field(default=0.0, ge=0)
    """Servo motion profile, register 112; 0 is unlimited (our limits shape the motion)."""
    profile_acceleration_rad_s2: float = Field(default=0.0, ge=0)


class GripperSpring(Model):
    """Opens the handle of a leader, so that it is squeezed like a trigger."""

    stiffness_nm_rad: float = Field(default=2.0, gt=0, le=5)
    """Of servos with current control; others push with all of ``max_torque_nm``."""
    max_torque_nm: float = Field(default=0.2, gt=0, le=0.5)
    """The most it pushes with. 0.2 N m is 5 N at a finger 40 mm from the servo."""
    rest_opening: float = Field(default=1.0, ge=0, le=1)
    """Where it comes to rest, 0 closed ... 1 open."""


class GravityHelp(Model):
    """Carries part of a leader's own weight, as its arm model's ``kinematics`` has it.

    A gain below 1 leaves weight to the hand: with 0.7 the arm still sinks, and does not rise by
    itself, when it is a third lighter than the model.
    """

    gain: float = Field(default=0.7, ge=0, le=1)
    """Part of the weight that is carried."""
    mass_scale: float = Field(default=1.0, ge=0.5, le=1.5)
    """The arm's true weight, as a part of the model's."""
    max_current_a: dict[Name, FeelCurrent] = Field(min_length=1)
    """By joint, of each of its servos. Joints not named carry nothing."""


class RangeBarrier(Model):
    """Pushes a leader back before its follower's range ends, or its own."""

    margin_rad: float = Field(default=0.1, ge=0, le=0.5)
    """Where it begins, before the end of the range."""
    stiffness_nm_rad: float = Field(default=20.0, gt=0, le=30)
    """Bound: at 100 Hz a stiffer one would swing (twice a wrist's damping of 0.4 N m s/rad over
    the time between two ticks, halved; see ``scene/leader.xml``)."""
    max_current_a: FeelCurrent = 0.5
    """Of each servo."""


class LeaderFeel(Model):
    """What the motors of a leader do while a hand guides it; all of it is off by default."""

    gripper_spring: GripperSpring | None = None
    gravity: GravityHelp | None = None
    barrier: RangeBarrier | None = None
    cutoff_rad_s: float = Field(default=3.0, gt=0, le=6)
    """Speed of a joint at which its motor no longer adds to the motion; it begins to yield at
    half of this. What slows a joint down is never cut off."""


class DynamixelArm(ArmBase):
    """One arm on one serial bus."""

    driver: Literal["dynamixel"] = "dynamixel"
    role: Literal["leader", "follower"]
    port: str
    baud: int = 1_000_000
    gripper_closed_rad: Angle | None = None
    """This arm's own gripper calibration, before the model's."""
    gripper_open_rad: Angle | None = None
    joint_offsets_rad: dict[Name, Angle] = Field(default_factory=dict)
    """Added to what the servos report, by joint; from ``tandem calibrate arm``. Others have 0."""
    read_timeout_s: Positive = 0.008
    """Time beyond the wire time that a group read may take before it counts as failed."""
    read_retries: int = Field(default=1, ge=0, le=5)
    fast_sync_read: bool = False
    """Use fast sync read (servo firmware 45 or newer on every servo of the arm)."""
    usb_latency_timer_ms: int = Field(default=1, ge=1, le=16)
    """Required FTDI latency timer; a larger one is refused at start."""
    feel: LeaderFeel | None = None
    """For a leader: how its motors help the hand that guides it."""

    @property
    def address(self) -> str:
        """Where the device is: used by one arm only."""
        return self.port
