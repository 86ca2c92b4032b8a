"""Franka arms, as a rig description tells them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from teleop.rig_parts import ArmBase, ArmModelBase, JointSpec, Model, Positive

Seven = Field(min_length=7, max_length=7)
SevenStiffnesses = Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Seven]
SevenDampings = Annotated[tuple[Annotated[float, Field(ge=0, le=200)], ...], Seven]
"""One number per joint."""


class FrankaGripper(Model):
    """The Franka Hand, used open or closed, since a move takes it about a second.

    Asked for an opening between the two thresholds, it stays as it was asked last.
    """

    open_width_m: Positive = 0.08
    """Opening 1 (Franka Hand: 80 mm between the fingers)."""
    close_below: float = Field(default=0.3, ge=0, le=1)
    open_above: float = Field(default=0.7, ge=0, le=1)
    force_n: Positive = Field(default=20.0, le=70)
    """Grasping force; the hand holds 70 N continuously (data sheet of the Franka Hand)."""
    speed_m_s: Positive = Field(default=0.1, le=0.1)
    """Of both fingers together; the hand does 50 mm/s per finger (data sheet)."""
    max_velocity_1_s: Positive = 10.0


class FrankaArmModel(ArmModelBase):
    """A kind of Franka arm: ``fr3`` by franky, ``panda`` (FER) by panda-python."""

    driver: Literal["franka"] = "franka"
    robot: Literal["fr3", "panda"] = "fr3"
    joints: tuple[JointSpec, ...] = Field(min_length=7, max_length=7)
    gripper: FrankaGripper | None = None


class FrankaWall(Model):
    """Soft walls that push a guided arm back from the ends of its model's joint ranges."""

    margin_rad: float = Field(default=0.15, gt=0, le=0.5)
    """Where a wall begins, before the end of the range."""
    stiffness_nm: float = Field(default=8.0, gt=0, le=30)
    """Base of the repulsion."""
    damping_nms_rad: float = Field(default=2.0, ge=0, le=10)
    """Further damping when moving into a wall."""
    max_torque_nm: float = Field(default=10.0, gt=0, le=30)


class FrankaLoad(Model):
    """What the arm carries beyond the end effector that Desk knows; else a guided arm drifts."""

    mass_kg: float = Field(ge=0, le=3)
    com_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Centre of mass in the flange's frame."""
    inertia_kgm2: tuple[float, ...] = Field(default=(0.0,) * 9, min_length=9, max_length=9)
    """Column-major, about the centre of mass."""


class FrankaArm(ArmBase):
    """One Franka arm, reached through its control box."""

    driver: Literal["franka"] = "franka"
    role: Literal["kinesthetic", "follower", "observer"]
    """``kinesthetic`` is guided by hand, ``follower`` is commanded, ``observer`` only read."""
    address: str
    """Host of the control box, not of the arm's own port."""
    collision_torque_nm: Positive = Field(default=85.0, le=100)
    """Threshold of the robot's collision reflex while guided: a hand pushes harder than the
    20 N m at which franky would stop."""
    collision_force_n: Positive = Field(default=85.0, le=100)
    follower_collision_torque_nm: Positive = Field(default=40.0, le=100)
    """The same for a follower; DROID's 40 N m and 40 N."""
    follower_collision_force_n: Positive = Field(default=40.0, le=100)
    joint_stiffness_nm_rad: SevenStiffnesses = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
    """Of holding and following; gains of libfranka's ``joint_impedance_control`` example."""
    joint_damping_nms_rad: SevenDampings = (50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 15.0)
    """From the same example."""
    guiding_damping_nms_rad: SevenDampings = (0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.1)
    """Slows a guided arm a little, so that a released one does not coast."""
    guiding_max_velocity_rad_s: float = Field(default=2.0, gt=0, le=2.62)
    """A guided joint faster than this ends the guiding gently. The robot itself stops at 2.62 rad/s
    (joints 1 to 4 of the FR3)."""
    wall: FrankaWall = FrankaWall()
    load: FrankaLoad | None = None
    deadman_hold_s: Positive = Field(default=0.1, le=0.5)
    """Without a command for this long the arm slows down and holds."""
    deadman_stop_s: Positive = Field(default=0.5, le=2)
    """Without a command for this long the driver ends its control gently; the robot's own holds."""
