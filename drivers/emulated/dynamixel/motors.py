"""What the servo-driven axes of a rig are made of: motors, gains, damping, friction.

Numbers identified from a real arm come from the Interbotix diagnostic bag of a WidowX 200
(XM430-W350 waist, 106 s at 100 Hz; ``bench/fidelity`` repeats the comparison).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from teleop.errors import UnknownNameError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArmModel


@dataclass(frozen=True, slots=True)
class Motor:
    """A servo's performance at 12 V, after its gears."""

    stall_nm: float
    stall_a: float
    free_rad_s: float

    @property
    def kt_nm_a(self) -> float:
        """Torque per ampere."""
        return self.stall_nm / self.stall_a

    @property
    def back_emf_nms_rad(self) -> float:
        """Torque per speed at constant voltage: the slope from stall to free running."""
        return self.stall_nm / self.free_rad_s

    @property
    def friction_nm(self) -> float:
        """Dry friction of the gears."""
        return min(FRICTION_A * self.kt_nm_a, FRICTION_OF_STALL * self.stall_nm)


MOTORS: Final = {  # ROBOTIS e-manual, "Specifications": stall torque and current, no-load speed
    "XM540-W270": Motor(10.6, 4.4, 3.14),
    "XM540-W150": Motor(7.3, 4.4, 5.55),
    "XM430-W350": Motor(4.1, 2.3, 4.82),
    "XM430-W210": Motor(3.0, 2.3, 8.06),
    "XL430-W250": Motor(1.5, 1.4, 6.39),
    "XC430-W150": Motor(1.6, 1.4, 11.1),
    "XC430-W240": Motor(1.9, 1.4, 7.33),
}

LAG_S: Final = 0.0526
"""Time by which the joint follows its set point: the position loop's damping over its gain.
Identified together with the profile; 0.045 ... 0.07 s fit the log within 0.002 rad RMS of each
other. The data sheet gives 0.045 s for this servo: gain 800 is 55 V/rad, back-EMF 2.5 V s/rad."""
FRICTION_A: Final = 0.12
"""Current that gear friction takes while moving, whatever the speed. Identified: 0.08 ... 0.16 A
between 0.3 and 2.3 rad/s, and held on after stopping (hysteresis)."""
FRICTION_OF_STALL: Final = FRICTION_A / 2.3
"""The same for motors weaker than the XM430-W350 that the log is of (2.3 A): an assumption."""

POWERED_DAMPING: Final = {
    "waist": 5.76,
    "shoulder": 20.0,
    "elbow": 18.49,
    "forearm_roll": 6.78,
    "wrist_angle": 6.28,
    "wrist_rotate": 1.2,
}
"""Torque per speed of a ViperX 300 joint with its servo on, N m s/rad: MuJoCo Menagerie, ALOHA 2.
The plant's followers have all of it as passive joint damping. A gripper's is the motor's own
back-EMF: what the plant has there is the load of the fingers."""
LEADER_SHARE: Final = 0.5
"""A WidowX's servos and inertias are about half of a ViperX's: damping and gain scale alike."""
LEADER_PASSIVE_DAMPING: Final = {
    "waist": 0.6,
    "shoulder": 1.2,
    "elbow": 1.2,
    "forearm_roll": 0.4,
    "wrist_angle": 0.4,
    "wrist_rotate": 0.2,
    "gripper": 0.05,
}
"""What the plant's leaders keep with torque off; the powered rest is the servo's."""
PLANT_FRICTION: Final = {"shoulder": 2.0, "elbow": 1.15}
"""Dry friction that the plant's followers have already, N m."""


@dataclass(frozen=True, slots=True)
class AxisSpec:
    """One joint and the servo, or the two servos, that drive it."""

    arm: str
    name: str
    servo_model: str
    servos: int
    kp_nm_rad: float
    """At the servo's factory position gain."""
    damping_nms_rad: float
    """Back-EMF: torque per speed with the servo on, the passive part included."""
    passive_nms_rad: float
    """The part of it that the plant applies itself, at all times."""
    friction_nm: float
    """Dry friction of the gears, beyond the plant's own."""

    @property
    def motor(self) -> Motor:
        return MOTORS[self.servo_model]

    @property
    def kt_nm_a(self) -> float:
        """Joint torque per ampere of each servo."""
        return self.motor.kt_nm_a * self.servos

    @property
    def stall_nm(self) -> float:
        return self.motor.stall_nm * self.servos

    @property
    def voltage_nm(self) -> float:
        """Torque of the full supply before back-EMF: enough to stall, and for the free speed."""
        return max(self.stall_nm, self.damping_nms_rad * self.motor.free_rad_s)


def axes_of(rig: Rig) -> list[AxisSpec]:
    """The axes of all servo arms, ``sorted(rig.arms)``; of each its joints, then its gripper.

    Raises:
        UnknownNameError: a servo model or joint name without numbers here.
    """
    axes = []
    for arm_name in sorted(rig.arms):
        model = rig.arm_model(arm_name)
        if not isinstance(model, DynamixelArmModel):
            continue
        leader = rig.arms[arm_name].role == "leader"
        for joint in model.joints:
            servos = 1 if joint.shadow_id is None else 2
            axes.append(axis_spec(arm_name, joint.name, joint.servo, servos, leader))
        if model.gripper is not None:
            axes.append(axis_spec(arm_name, "gripper", model.gripper.servo, 1, leader))
    return axes


def axis_spec(arm: str, joint: str, servo_model: str, servos: int, leader: bool) -> AxisSpec:
    """An axis by the names of its joint and servo; see ``axes_of`` for errors."""
    if servo_model not in MOTORS:
        raise UnknownNameError("servo model", servo_model, MOTORS)
    motor = MOTORS[servo_model]
    if joint == "gripper":
        powered = motor.back_emf_nms_rad
        passive = LEADER_PASSIVE_DAMPING[joint] if leader else 0.0
    elif joint in POWERED_DAMPING:
        powered = POWERED_DAMPING[joint] * (LEADER_SHARE if leader else 1.0)
        passive = LEADER_PASSIVE_DAMPING[joint] if leader else powered
    else:
        raise UnknownNameError("emulated joint", joint, [*POWERED_DAMPING, "gripper"])
    in_plant_nm = 0.0 if leader else PLANT_FRICTION.get(joint, 0.0)
    return AxisSpec(
        arm=arm,
        name=joint,
        servo_model=servo_model,
        servos=servos,
        kp_nm_rad=powered / LAG_S,
        damping_nms_rad=powered,
        passive_nms_rad=passive,
        friction_nm=max(0.0, motor.friction_nm * servos - in_plant_nm),
    )
