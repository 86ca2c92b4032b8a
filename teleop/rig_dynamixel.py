"""Arms of Dynamixel servos, as a rig description tells them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from teleop.rig_parts import Angle, ArmBase, ArmModelBase, JointSpec, Model, Positive, ServoId


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


class DynamixelArm(ArmBase):
    """One arm on one serial bus."""

    driver: Literal["dynamixel"] = "dynamixel"
    role: Literal["leader", "follower"]
    port: str
    baud: int = 1_000_000
    gripper_closed_rad: Angle | None = None
    """This arm's own gripper calibration, before the model's."""
    gripper_open_rad: Angle | None = None
    read_timeout_s: Positive = 0.008
    """Time beyond the wire time that a group read may take before it counts as failed."""
    read_retries: int = Field(default=1, ge=0, le=5)
    fast_sync_read: bool = False
    """Use fast sync read (servo firmware 45 or newer on every servo of the arm)."""
    usb_latency_timer_ms: int = Field(default=1, ge=1, le=16)
    """Required FTDI latency timer; a larger one is refused at start."""

    @property
    def address(self) -> str:
        """Where the device is: used by one arm only."""
        return self.port
