"""Bringing the servos of an arm into the state the rig description asks for.

EEPROM is compared and written only where it differs, and never while torque is on. Writes
to the RAM of a joint's servo reach its shadow through the shadow's Secondary ID; EEPROM
writes do not, so each shadow is configured by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drivers.dynamixel import bus as dynamixel_bus
from drivers.dynamixel import table
from drivers.dynamixel.bus import DynamixelBus, Servo
from drivers.dynamixel.table import ServoModel
from drivers.dynamixel.units import tick_range
from teleop.errors import DeviceError
from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel, ServoGripper

SHADOW_TOLERANCE_TICKS = 4
"""Two servos on one joint may differ by this much (0.35 degrees) before they strain each other."""

OPERATING_MODES = {
    "position": table.MODE_POSITION,
    "current_based_position": table.MODE_CURRENT_BASED_POSITION,
}


def servos_of(model: DynamixelArmModel) -> list[Servo]:
    """All servos of an arm, shadows behind the servo they mirror, the gripper last."""
    servos = []
    for joint in model.joints:
        servos.append(Servo(joint.id, joint.name, joint.servo))
        if joint.shadow_id is not None:
            servos.append(Servo(joint.shadow_id, f"{joint.name} (shadow)", joint.servo))
    if model.gripper is not None:
        servos.append(Servo(model.gripper.id, "gripper", model.gripper.servo))
    return servos


def check_firmware(
    bus: DynamixelBus, servo_ids: Sequence[int], arm: DynamixelArm, watched: bool
) -> None:
    """Refuse servos that lack what the arm is described to use; ``watched`` by the bus watchdog.

    Raises:
        DeviceError: naming every such servo.
    """
    if watched:
        why = f"the bus watchdog of a {arm.role}"
        dynamixel_bus.check_firmware(bus, servo_ids, table.FIRMWARE_WATCHDOG, why)
    if arm.fast_sync_read:
        dynamixel_bus.check_firmware(bus, servo_ids, table.FIRMWARE_FAST_READ, "fast_sync_read")


def configure_eeprom(
    bus: DynamixelBus,
    model: DynamixelArmModel,
    joint_ranges_rad: Sequence[tuple[float, float]],
    gripper_range_rad: tuple[float, float],
    models: Mapping[int, ServoModel],
) -> None:
    """Return delay, drive modes, operating modes, secondary ids, limits, shadow offsets.

    Raises:
        DeviceError: a servo does not take a value, needs one it cannot have, or has torque on.
    """
    for servo_id in bus.servos:
        bus.configure(servo_id, table.RETURN_DELAY, 0)
    for joint, (low_rad, high_rad) in zip(model.joints, joint_ranges_rad, strict=True):
        _configure(bus, joint.id, joint.reverse, table.MODE_POSITION)
        _free_secondary_id(bus, joint.id)
        _widen_limits(bus, joint.id, low_rad, high_rad)
        if joint.shadow_id is not None:
            _configure(bus, joint.shadow_id, joint.shadow_reverse, table.MODE_POSITION)
            bus.configure(joint.shadow_id, table.SECONDARY_ID, joint.id)
            _widen_limits(bus, joint.shadow_id, low_rad, high_rad)
            align_shadow(bus, joint.id, joint.shadow_id)
    if model.gripper is not None:
        mode = _gripper_mode(bus, model.gripper, models[model.gripper.id])
        _configure(bus, model.gripper.id, model.gripper.reverse, mode)
        _free_secondary_id(bus, model.gripper.id)
        _widen_limits(bus, model.gripper.id, *sorted(gripper_range_rad))


def configure_ram(
    bus: DynamixelBus, model: DynamixelArmModel, models: Mapping[int, ServoModel], servo_id: int
) -> None:
    """Gains, profile and current limit of one joint's servo, which a reboot resets.

    Raises:
        DeviceError: a servo refuses a value.
    """
    velocity = _units(model.profile_velocity_rad_s, table.RAD_S_PER_UNIT)
    acceleration = _units(model.profile_acceleration_rad_s2, table.RAD_S2_PER_UNIT)
    bus.write(servo_id, table.PROFILE_ACCELERATION, acceleration)
    bus.write(servo_id, table.PROFILE_VELOCITY, velocity)
    for joint in model.joints:
        if joint.id == servo_id:
            if joint.position_p is not None:
                bus.write(servo_id, table.POSITION_P, joint.position_p)
            if joint.position_d is not None:
                bus.write(servo_id, table.POSITION_D, joint.position_d)
    gripper = model.gripper
    if gripper is not None and gripper.id == servo_id and gripper.current_limit_a is not None:
        unit = models[servo_id].current_unit_a
        if unit is not None:
            bus.write(servo_id, table.GOAL_CURRENT, _units(gripper.current_limit_a, unit))


def align_shadow(bus: DynamixelBus, primary_id: int, shadow_id: int) -> None:
    """Set a shadow's homing offset so that it reports the same position as its primary.

    The sign of the offset in reverse drive mode is tried out rather than trusted: the
    position is read back, and the other sign taken when the gap has grown.

    Raises:
        DeviceError: no offset brings them together.
    """
    gap = _gap_ticks(bus, primary_id, shadow_id)
    if abs(gap) <= SHADOW_TOLERANCE_TICKS:
        return
    before = bus.read(shadow_id, table.HOMING_OFFSET)
    for offset in (before + gap, before - gap):
        if abs(offset) > table.HOMING_OFFSET_MAX:
            continue
        bus.configure(shadow_id, table.HOMING_OFFSET, offset)
        if abs(_gap_ticks(bus, primary_id, shadow_id)) <= SHADOW_TOLERANCE_TICKS:
            return
    bus.configure(shadow_id, table.HOMING_OFFSET, before)
    raise DeviceError(
        f"{bus.arm}: {bus.servos[shadow_id]} reads {abs(gap) * table.RAD_PER_TICK:.2f} rad away "
        f"from {bus.servos[primary_id]} on the same joint, and no homing offset brings them "
        "together; check the horn's mounting and the drive modes in the rig description"
    )


def _gap_ticks(bus: DynamixelBus, primary_id: int, shadow_id: int) -> int:
    primary = bus.read(primary_id, table.PRESENT_POSITION)
    return primary - bus.read(shadow_id, table.PRESENT_POSITION)


def _configure(bus: DynamixelBus, servo_id: int, reverse: bool, mode: int) -> None:
    bus.configure(servo_id, table.DRIVE_MODE, table.DRIVE_REVERSE if reverse else 0)
    bus.configure(servo_id, table.OPERATING_MODE, mode)


def _free_secondary_id(bus: DynamixelBus, servo_id: int) -> None:
    """253 and above all mean none."""
    if bus.read(servo_id, table.SECONDARY_ID) <= 252:
        bus.configure(servo_id, table.SECONDARY_ID, table.NO_SECONDARY_ID)


def _widen_limits(bus: DynamixelBus, servo_id: int, min_rad: float, max_rad: float) -> None:
    """A goal beyond a servo's own limit is dropped without a word, so these may not be tighter."""
    low, high = tick_range(min_rad, max_rad)
    if bus.read(servo_id, table.MIN_POSITION) > low:
        bus.configure(servo_id, table.MIN_POSITION, low)
    if bus.read(servo_id, table.MAX_POSITION) < high:
        bus.configure(servo_id, table.MAX_POSITION, high)


def _gripper_mode(bus: DynamixelBus, gripper: ServoGripper, model: ServoModel) -> int:
    mode = OPERATING_MODES[gripper.operating_mode]
    if mode == table.MODE_CURRENT_BASED_POSITION and model.current_unit_a is None:
        raise DeviceError(
            f"{bus.arm}: the gripper servo, a {model.name}, has no current control; "
            "set its operating_mode to position"
        )
    return mode


def _units(value: float, unit: float) -> int:
    """A setting in servo units; 0 stays 0, which means unlimited, and nothing else becomes 0."""
    return max(1, round(value / unit)) if value else 0
