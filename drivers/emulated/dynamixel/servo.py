"""One emulated servo: its registers, where it sits on a joint, and whether it listens."""

from __future__ import annotations

import math
import struct

from drivers.dynamixel import table as dt
from drivers.emulated.dynamixel import registers as sr
from drivers.emulated.dynamixel.bank import Drive, ServoBank
from drivers.emulated.dynamixel.registers import ServoRegisters

REBOOT_NS = 300_000_000
"""How long a servo is deaf after a reboot: an assumption, within the 1 s that Interbotix waits."""
_MEASURED = struct.Struct("<hii")
"""Present current, velocity and position, addresses 126 to 135."""
_LONG = struct.Struct("<i")
_PWM_FULL = 885
_FAR_RAD = 1e6
_INT16 = 32767


class Servo:
    """A servo on one axis of the bank.

    Args:
        registers: its memory, already configured.
        axis: index in the bank.
        reverse: how it is mounted: True when its own positive direction is the joint's negative,
            so that its drive mode must be "reverse" for it to report the joint's angle.
        joint_servos: how many servos drive this joint.
    """

    def __init__(
        self, registers: ServoRegisters, axis: int, reverse: bool, joint_servos: int
    ) -> None:
        self.registers = registers
        self.axis = axis
        self.reverse = reverse
        self.joint_servos = joint_servos
        self._unit_a = dt.SERVO_MODELS[registers.model].current_unit_a
        self.deaf_until_ns = 0
        self.goal_given = False
        """Whether a goal was written since power-up or the last mode change."""
        self.mounted_rad = 0.0
        """How its horn sits: the servo takes the joint to be turned by this much more than it is;
        whole turns for a joint that was wound up. The truth that calibration is to find."""

    @property
    def servo_id(self) -> int:
        return self.registers.table[7]

    @property
    def follows(self) -> int:
        """Id whose RAM writes this servo mirrors; 255 for none."""
        return self.registers.table[12]

    @property
    def sign(self) -> int:
        """Direction in which it reports and moves, against the joint's."""
        return 1 if bool(self.registers.table[10] & dt.DRIVE_REVERSE) == self.reverse else -1

    @property
    def watched(self) -> bool:
        """Whether silence on the bus will stop it."""
        return self.registers.torque_on and 0 < self.registers.table[98] < dt.WATCHDOG_TRIPPED

    def restart(self, now_ns: int) -> None:
        """Reboot or brown-out: volatile memory lost, torque off, deaf for a while."""
        self.registers.reset_ram()
        self.deaf_until_ns = now_ns + REBOOT_NS
        self.goal_given = False

    def stop_by_watchdog(self) -> None:
        """Silence: what it was told last no longer counts.

        That a servo which regulates current or voltage then lets go, is what users report of an
        XM540 (forum.robotis.com, 4814; servos of the 330 size are said not to obey).
        """
        registers = self.registers
        registers.table[98] = dt.WATCHDOG_TRIPPED
        self.goal_given = False
        if registers.table[11] == sr.MODE_CURRENT:
            registers.set(102, 0)
        elif registers.table[11] == sr.MODE_PWM:
            registers.set(sr.GOAL_PWM, 0)

    def measure(self, bank: ServoBank, end: int) -> None:
        """Bring the present-value registers below address ``end`` up to date."""
        registers, axis, sign = self.registers, self.axis, self.sign
        table = registers.table
        if self._unit_a is None:
            effort = sign * bank.load(axis) * 1000  # present load, 0.1 %
        else:
            effort = sign * bank.current_a(axis) / self._unit_a
        velocity = round(sign * bank.velocity_rad_s(axis) / dt.RAD_S_PER_UNIT)
        position = self._tick(bank.angle_rad.item(axis))
        _MEASURED.pack_into(
            table, 126, min(max(round(effort), -_INT16), _INT16), velocity, position
        )
        table[sr.MOVING] = abs(velocity) > table[24]
        if not self.goal_given:
            _LONG.pack_into(table, 116, position)
        if end > 136:
            registers.set(136, round(sign * bank.set_rad_s.item(axis) / dt.RAD_S_PER_UNIT))
            registers.set(140, self._tick(bank.set_rad.item(axis)))

    def clear_turns(self, bank: ServoBank) -> int:
        """Forget whole turns: the position is within one turn again; returns the error code.

        A servo that moves refuses (documentation of the crate dynamixel2 0.9). That the error is
        "result fail", and that the goal loses the same turns, so that nothing moves, are
        assumptions.
        """
        registers = self.registers
        self.measure(bank, 136)
        if registers.table[sr.MOVING]:
            return sr.RESULT_FAIL
        turns = (registers.get(132) - registers.get(20)) // dt.TICKS_PER_TURN
        self.mounted_rad -= self.sign * turns * 2 * math.pi
        registers.set(sr.GOAL_POSITION, registers.get(sr.GOAL_POSITION) - turns * dt.TICKS_PER_TURN)
        return 0

    def _tick(self, angle_rad: float) -> int:
        offset: int = _LONG.unpack_from(self.registers.table, 20)[0]
        seen_rad = angle_rad + self.mounted_rad
        return round(self.sign * seen_rad / dt.RAD_PER_TICK) + dt.TICK_ZERO + offset

    def drive(self, power: float, bank: ServoBank) -> Drive:
        """How the axis is driven when this servo's registers decide."""
        registers = self.registers
        mode = registers.get(11)
        axis = bank.axes[self.axis]
        pwm = registers.get(sr.GOAL_PWM) / _PWM_FULL
        goal_nm = registers.get(102) * (self._unit_a or 0.0) * axis.kt_nm_a
        if mode == sr.MODE_CURRENT:
            push = self.sign * goal_nm
            return Drive(position_gain=0.0, push_nm=push, braking=False, power=power)
        if mode == sr.MODE_PWM:
            push = self.sign * pwm * axis.voltage_nm
            return Drive(position_gain=0.0, push_nm=push, power=power)
        gain = registers.get(84) / registers.factory.position_p
        drive = Drive(position_gain=gain, voltage_part=abs(pwm), power=power)
        if mode == dt.MODE_CURRENT_BASED_POSITION:
            return Drive(gain, voltage_part=abs(pwm), power=power, torque_limit_nm=abs(goal_nm))
        return drive

    def send_goal(self, bank: ServoBank) -> None:
        """Hand the goal of a position mode to the bank, in a velocity mode the velocity."""
        table, axis = self.registers.table, self.axis
        if table[11] == sr.MODE_VELOCITY:
            velocity = self.sign * self.registers.get(sr.GOAL_VELOCITY) * dt.RAD_S_PER_UNIT
            if velocity == 0:
                bank.hold(axis)
                return
            bank.profile(axis, abs(velocity), self.registers.get(108) * dt.RAD_S2_PER_UNIT)
            bank.goal(axis, _FAR_RAD if velocity > 0 else -_FAR_RAD)
        elif table[11] in sr.POSITION_MODES and self.goal_given:
            ticks = _LONG.unpack_from(table, 116)[0] - _LONG.unpack_from(table, 20)[0]
            goal_rad = self.sign * (ticks - dt.TICK_ZERO) * dt.RAD_PER_TICK
            bank.goal(axis, goal_rad - self.mounted_rad)
            if table[10] & sr.TIME_PROFILE:
                self.send_profile(bank)

    def send_profile(self, bank: ServoBank) -> None:
        """Hand the motion profile of a position mode to the bank."""
        registers, axis = self.registers, self.axis
        if registers.get(11) not in sr.POSITION_MODES:
            return
        velocity, acceleration = registers.get(112), registers.get(108)
        if not registers.table[10] & sr.TIME_PROFILE:
            bank.profile(axis, velocity * dt.RAD_S_PER_UNIT, acceleration * dt.RAD_S2_PER_UNIT)
            return
        travel_s = velocity / 1e3  # both registers are milliseconds now
        ramp_s = min(acceleration / 1e3, travel_s / 2)
        way = abs(bank.goal_rad.item(axis) - bank.set_rad.item(axis))
        speed = way / (travel_s - ramp_s) if travel_s else 0.0
        bank.profile(axis, speed, speed / ramp_s if ramp_s else 0.0)
