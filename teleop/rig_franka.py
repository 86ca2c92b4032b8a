"""Franka arms, as a rig description tells them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from teleop.rig_parts import ArmBase, ArmModelBase, JointSpec, Model, Positive


class FrankaGripper(Model):
    """The Franka Hand, used open or closed."""

    open_width_m: Positive = 0.08
    """Opening 1 (Franka Hand: 80 mm between the fingers)."""
    close_below: float = Field(default=0.3, ge=0, le=1)
    open_above: float = Field(default=0.7, ge=0, le=1)
    force_n: Positive = Field(default=20.0, le=70)
    speed_m_s: Positive = Field(default=0.1, le=0.1)
    max_velocity_1_s: Positive = 10.0


class FrankaArmModel(ArmModelBase):
    """A kind of Franka arm."""

    driver: Literal["franka"] = "franka"
    robot: Literal["fr3", "panda"] = "fr3"
    joints: tuple[JointSpec, ...] = Field(min_length=7, max_length=7)
    gripper: FrankaGripper | None = None


class FrankaArm(ArmBase):
    """One Franka arm, reached through its control box."""

    driver: Literal["franka"] = "franka"
    role: Literal["kinesthetic", "follower", "observer"]
    address: str
