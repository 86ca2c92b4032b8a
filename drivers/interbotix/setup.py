"""Finding an arm's joints in an ``interbotix_xs_sdk`` node, checking and configuring them.

The node owns the servos' EEPROM, from its motor configuration; here it is only compared with
the arm model. Operating modes and volatile registers are set where they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drivers.dynamixel import table
from drivers.interbotix.interface import ALL, JointStates, RefusedError, Target, XsSdk
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig_dynamixel import DynamixelArmModel

log = logging.getLogger(__name__)

URDF_TOLERANCE_RAD = 0.02
"""URDF limits are whole degrees, the servos' are ticks: they differ by half a degree."""
TICK_TOLERANCE = 2
"""The node's library turns radians into ticks with an error of one."""
MODES = {
    "position": table.MODE_POSITION,
    "current_based_position": table.MODE_CURRENT_BASED_POSITION,
}
GOALS_IN_RAD = tuple(MODES)
"""Modes of the node in which commands are taken as they are, in rad."""
TIME_PROFILE = 0x04
"""Drive mode bit 2: the motion profile counts in time."""
INT16 = 1 << 16


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the joints of an arm are in the node."""

    group: str
    """The group of the arm's joints, without the gripper."""
    motors: tuple[str, ...]
    """Motor names: the joints, then the gripper if there is one."""
    order: tuple[int, ...]
    """Place of each motor in the node's group ``all`` and in its joint states."""
    shadows: Mapping[str, str]
    """Motor that shares each joint's load, by the joint, as far as the node knows them."""
    joints: int

    @property
    def gripper(self) -> str | None:
        """The gripper's motor."""
        return self.motors[self.joints] if len(self.motors) > self.joints else None

    def by_motor(self, values: Sequence[int]) -> dict[str, int]:
        """What the group ``all`` answered, by motor."""
        return {motor: values[i] for motor, i in zip(self.motors, self.order, strict=True)}


def read_all(sdk: XsSdk, layout: Layout, register: str) -> dict[str, int]:
    """A register of every motor.

    Raises:
        DeviceError: naming the first motor that gives no answer.
    """
    values = sdk.registers(ALL, register)
    if len(values) <= max(layout.order):
        names = dict(zip(layout.order, layout.motors, strict=True))
        silent = names.get(len(values), f"number {len(values) + 1} of the group all")
        raise DeviceError(
            f"{silent} does not tell its {register}; check the arm's power and its bus cable"
        )
    return layout.by_motor(values)


def find_layout(sdk: XsSdk, model: DynamixelArmModel, states: JointStates) -> Layout:
    """Compare names and ids with the arm model.

    Raises:
        DeviceError: naming what differs.
    """
    everything = sdk.info(ALL)
    joints = [joint.name for joint in model.joints]
    ids = {joint.id: joint.name for joint in model.joints}
    motors = list(joints)
    if model.gripper is not None:
        index = _index(everything.joint_ids, model.gripper.id, "gripper")
        motors.append(states.names[index])
        ids[model.gripper.id] = motors[-1]
    found = dict(zip(everything.joint_ids, states.names, strict=False))
    if found != ids:
        raise DeviceError(
            f"the node has {_list(found)}, the arm model {_list(ids)}; "
            "choose the right robot, or correct the joints of the model"
        )
    order = tuple(states.names.index(motor) for motor in motors)
    group = _arm_group(sdk, everything.groups, joints)
    shadows = {
        joint.name: f"{joint.name}_shadow"
        for joint in model.joints
        if joint.shadow_id is not None and _has_motor(sdk, f"{joint.name}_shadow", joint.shadow_id)
    }
    return Layout(group, tuple(motors), order, shadows, len(joints))


def check_limits(
    sdk: XsSdk, layout: Layout, model: DynamixelArmModel, ranges: Sequence[tuple[int, int]]
) -> None:
    """See that no goal within the model's limits is beyond the URDF's or the servos' own.

    A servo drops a goal beyond its own limit without a word, and its joint stands still.

    Args:
        sdk: The node.
        layout: Where the joints are.
        model: The arm model.
        ranges: Lowest and highest tick that each motor will be sent to.

    Raises:
        DeviceError: naming every joint.
    """
    info = sdk.info(("group", layout.group))
    faults = []
    for joint, low, high in zip(model.joints, info.lower_rad, info.upper_rad, strict=False):
        if joint.min_rad < low - URDF_TOLERANCE_RAD or joint.max_rad > high + URDF_TOLERANCE_RAD:
            faults.append(
                f"{joint.name} may go {joint.min_rad:.3f} ... {joint.max_rad:.3f} rad in the "
                f"model, {low:.3f} ... {high:.3f} in the node's URDF"
            )
    least = read_all(sdk, layout, "Min_Position_Limit")
    most = read_all(sdk, layout, "Max_Position_Limit")
    for motor, (low_tick, high_tick) in zip(layout.motors, ranges, strict=True):
        if least[motor] > low_tick + TICK_TOLERANCE or most[motor] < high_tick - TICK_TOLERANCE:
            faults.append(
                f"{motor} may go to ticks {low_tick} ... {high_tick} in the model, "
                f"its servo to {least[motor]} ... {most[motor]}"
            )
    if faults:
        raise DeviceError(
            f"{'; '.join(faults)}: correct the limits in the arm model, or the Min_Position_Limit "
            "and Max_Position_Limit in the node's motor configuration"
        )


def check_servos(sdk: XsSdk, layout: Layout, model: DynamixelArmModel) -> FloatArray:
    """Compare servo models and mounting with the arm model.

    Returns:
        Whether each motor measures current, as 1 or NaN: a factor of its effort.

    Raises:
        DeviceError: naming every servo that differs.
    """
    numbers = read_all(sdk, layout, "Model_Number")
    drives = read_all(sdk, layout, "Drive_Mode")
    wanted = [(joint.servo, joint.reverse) for joint in model.joints]
    if model.gripper is not None:
        wanted.append((model.gripper.servo, model.gripper.reverse))
    faults, sensed = [], []
    for motor, (kind, reverse) in zip(layout.motors, wanted, strict=True):
        servo = table.MODEL_BY_NUMBER.get(numbers[motor] % INT16)
        if servo is None:
            faults.append(f"{motor} has model number {numbers[motor]}, which is not known here")
            continue
        if kind not in (servo.name, table.ANY_MODEL):
            faults.append(f"{motor} is a {servo.name}, not a {kind}")
        if bool(drives[motor] & table.DRIVE_REVERSE) != reverse:
            faults.append(f"{motor} has drive mode {drives[motor]}, the model reverse: {reverse}")
        sensed.append(np.nan if servo.current_unit_a is None else 1.0)
    if faults:
        raise DeviceError(f"{'; '.join(faults)}: correct the arm model, or choose the right robot")
    gripper = model.gripper
    if gripper is not None and gripper.operating_mode != "position" and np.isnan(sensed[-1]):
        raise DeviceError(
            "the gripper's servo has no current control; set its operating_mode to position"
        )
    return np.array(sensed)


def configure_modes(
    sdk: XsSdk, layout: Layout, model: DynamixelArmModel, torqued: Mapping[str, bool]
) -> None:
    """Operating modes: position, the gripper's as in the model. Torque is left as it was.

    The node switches a motor's torque off while it changes its mode and on when it has. So an
    arm that holds itself up is refused, and one that was limp is let go again at once.

    Raises:
        DeviceError: a mode is not as it should be and cannot be changed, or does not change.
    """
    joints, gripper = layout.motors[: layout.joints], layout.gripper
    wrong = _wrong_modes(sdk, layout, model)
    if not wrong:
        return
    arm_is_wrong = bool(wrong.keys() - {gripper})
    if arm_is_wrong and (held := [motor for motor in joints if torqued[motor]]):
        raise DeviceError(
            f"{'; '.join(wrong.values())}; to change it, the node would let go of "
            f"{', '.join(held)}: support the arm, switch its torque off (service torque_enable), "
            "and start again, or have the node's mode configuration set position"
        )
    log.info("operating modes are set: %s", "; ".join(wrong.values()))
    try:
        if "all" in wrong:
            sdk.set_mode(ALL, "position")
        if arm_is_wrong:
            sdk.set_mode(("group", layout.group), "position")
        if gripper is not None and model.gripper is not None and wrong.keys() & {gripper, "all"}:
            sdk.set_mode(("single", gripper), model.gripper.operating_mode)
    finally:
        limp: list[Target] = [("single", motor) for motor in layout.motors if not torqued[motor]]
        _let_go(sdk, [ALL] if len(limp) == len(layout.motors) else limp)
    if wrong := _wrong_modes(sdk, layout, model):
        raise DeviceError(f"{'; '.join(wrong.values())} though another was set; see the node's log")


def configure_volatile(
    sdk: XsSdk, layout: Layout, model: DynamixelArmModel, motors: Iterable[str]
) -> None:
    """Profiles, gains and current limit, which a reboot resets, where they differ.

    Raises:
        DeviceError: a motor does not keep a value.
    """
    wanted = _volatile(layout, model)
    chosen = set(motors)
    for register, values in wanted.items():

        def differing(register: str = register, values: Mapping[str, int] = values) -> list[str]:
            found = read_all(sdk, layout, register)
            return [m for m, value in values.items() if m in chosen and found[m] != value]

        write_and_check(sdk, register, values, differing)


def write_and_check(
    sdk: XsSdk, register: str, values: Mapping[str, int], differing: Callable[[], list[str]]
) -> None:
    """Write a register of those motors in which it differs, and see that it no longer does.

    Raises:
        DeviceError: naming the motors that did not take it.
    """
    wrong = differing()
    for motor in wrong:
        sdk.set_register(motor, register, values[motor])
    if wrong and (kept := differing()):
        raise DeviceError(f"{', '.join(kept)} did not take {register}; see the node's log")


def _volatile(layout: Layout, model: DynamixelArmModel) -> dict[str, dict[str, int]]:
    velocity = _units(model.profile_velocity_rad_s, table.RAD_S_PER_UNIT)
    acceleration = _units(model.profile_acceleration_rad_s2, table.RAD_S2_PER_UNIT)
    wanted = {
        "Profile_Velocity": dict.fromkeys(layout.motors, velocity),
        "Profile_Acceleration": dict.fromkeys(layout.motors, acceleration),
        "Position_P_Gain": {j.name: j.position_p for j in model.joints if j.position_p is not None},
        "Position_D_Gain": {j.name: j.position_d for j in model.joints if j.position_d is not None},
    }
    gripper = model.gripper
    if (
        gripper is not None
        and layout.gripper is not None
        and gripper.operating_mode == "current_based_position"
        and gripper.current_limit_a is not None
    ):
        unit_a = table.SERVO_MODELS["XM430-W350"].current_unit_a or 1.0  # the same for all XM
        wanted["Goal_Current"] = {layout.gripper: _units(gripper.current_limit_a, unit_a)}
    return {register: values for register, values in wanted.items() if values}


def _wrong_modes(sdk: XsSdk, layout: Layout, model: DynamixelArmModel) -> dict[str, str]:
    """What is not as it should be, in words, by motor or group."""
    modes = read_all(sdk, layout, "Operating_Mode")
    drives = read_all(sdk, layout, "Drive_Mode")
    wrong = {}
    for motor in layout.motors:
        wanted = "position"
        if motor == layout.gripper and model.gripper is not None:
            wanted = model.gripper.operating_mode
            said = sdk.info(("single", motor)).mode
            if said not in GOALS_IN_RAD:
                wrong[motor] = f"{motor} is in mode {said}"
        if modes[motor] != MODES[wanted]:
            wrong[motor] = f"{motor} has operating mode {modes[motor]}, {MODES[wanted]} is needed"
        elif drives[motor] & TIME_PROFILE:
            wrong[motor] = f"{motor} has a motion profile by time"
    for group in ("all", layout.group):
        if (said := sdk.info(("group", group)).mode) not in GOALS_IN_RAD:
            wrong[group] = f"the group {group} is in mode {said or 'unknown'}"
    return wrong


def _let_go(sdk: XsSdk, targets: Iterable[Target]) -> None:
    for target in targets:
        try:
            sdk.torque(target, False)
        except DeviceError as error:
            log.error("torque of %s may have been left on: %s", target[1], error)


def _arm_group(sdk: XsSdk, groups: Iterable[str], joints: Sequence[str]) -> str:
    known = {name: sdk.info(("group", name)).joint_names for name in groups if name != "all"}
    for name, names in known.items():
        if list(names) == list(joints):
            return name
    raise DeviceError(
        f"no group of the node has the joints {', '.join(joints)}, in this order; its groups are "
        f"{'; '.join(f'{name}: ' + ', '.join(names) for name, names in known.items()) or 'none'}; "
        "correct groups in its motor configuration, or the joints of the arm model"
    )


def _has_motor(sdk: XsSdk, motor: str, servo_id: int) -> bool:
    try:
        return sdk.info(("single", motor)).joint_ids == (servo_id,)
    except RefusedError:
        return False


def _index(ids: Sequence[int], servo_id: int, what: str) -> int:
    if servo_id not in ids:
        raise DeviceError(
            f"the node has no motor with id {servo_id}, the {what} of the arm model; its ids are "
            f"{', '.join(map(str, ids))}"
        )
    return ids.index(servo_id)


def _list(motors: Mapping[int, str]) -> str:
    return ", ".join(f"{name} (id {i})" for i, name in motors.items())


def _units(value: float, unit: float) -> int:
    """A setting in servo units; 0 stays 0, which means unlimited, and nothing else becomes 0."""
    return max(1, round(value / unit)) if value else 0
