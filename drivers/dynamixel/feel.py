"""Servos of a leader that push while a hand guides it: by current, a gripper also by voltage.

A joint that is let go has its torque off, or else is set to current mode and told a current in
every cycle. Modes are changed while torque is off, and torque comes back with a current of zero,
read back from each servo, shadows too: a change of mode sets the goal current to the largest there
is (ROBOTIS e-manual, note on register 11).

XL430 and XC430 servos have no current mode. A gripper with one of these can still be sprung: it
goes to a position, and the voltage it may use for that is kept low.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.joints import gripper_scale
from drivers.dynamixel import table
from drivers.dynamixel.bus import DynamixelBus
from drivers.dynamixel.codec import GroupWrite
from drivers.dynamixel.setup import OPERATING_MODES
from drivers.dynamixel.table import Register, ServoModel
from teleop.errors import DeviceError, DeviceLostError, SafetyError
from teleop.messages import FloatArray
from teleop.rig_dynamixel import DynamixelArm as ArmConfig
from teleop.rig_dynamixel import DynamixelArmModel

log = logging.getLogger(__name__)

MODE_CURRENT: Final = 0
PWM_LIMIT: Final = Register("PWM limit", 36, 2)
GOAL_PWM: Final = Register("goal PWM", 100, 2, signed=True)
PWM_FULL: Final = 885
"""Goal PWM at which a motor gets all of the supply (ROBOTIS e-manual, unit of 0.113 %)."""

NM_PER_A: Final[Mapping[str, float]] = {
    "XM540-W270": 10.6 / 4.4,
    "XM540-W150": 7.3 / 4.4,
    "XM430-W350": 4.1 / 2.3,
    "XM430-W210": 3.0 / 2.3,
}
"""Stall torque over stall current at 12 V (ROBOTIS e-manual, "Specifications"). Interbotix' gravity
compensation takes 1.793 for the XM430-W350, which is 1.78 here. What gears lose is not in it."""
STALL_NM: Final[Mapping[str, float]] = {
    "XL430-W250": 1.5,
    "XC430-W150": 1.6,
    "XC430-W240": 1.9,
}
"""Stall torque at 12 V, for servos that push by voltage (the same source)."""


class ServoPush:
    """Which servos of one arm can push, and which are set to.

    Args:
        arm: The arm's name, for messages.
        config: Its description; without ``feel`` nothing here ever pushes.
        model: The description of its kind.
    """

    def __init__(self, arm: str, config: ArmConfig, model: DynamixelArmModel) -> None:
        self.ids: set[int] = set()
        """Servos set to push, whether or not they have torque."""
        self._arm = arm
        self._model = model
        self._feel = feel = config.feel
        self._order = [joint.id for joint in model.joints]
        self._shadow_of = {j.id: j.shadow_id for j in model.joints if j.shadow_id is not None}
        self._joints: set[int] = set()
        if feel is not None:
            carried = () if feel.gravity is None else feel.gravity.max_current_a
            self._joints = {j.id for j in model.joints if feel.barrier or j.name in carried}
        self._spring = None if feel is None else feel.gripper_spring
        self._gripper = None if model.gripper is None else model.gripper.id
        if self._gripper is not None:
            self._order.append(self._gripper)
        self.torque_per_ampere: FloatArray = np.full(len(self._order), np.nan)
        """See ``drivers.base.PushingArm``."""
        self._scale = gripper_scale(config, model)
        self._packer: GroupWrite | None = None
        self._told = False

    # Getting to know the servos.

    def learn(self, bus: DynamixelBus, models: Mapping[int, ServoModel]) -> None:
        """Take a bus just opened.

        Raises:
            DeviceError: a servo does not answer.
        """
        self._bus, self._models = bus, models
        self.ids.clear()
        self._pack()
        self.torque_per_ampere[:] = [self._nm_per_a(i) for i in self._order]
        if self._feel is None:
            return
        by_current = [i for i in self.able(True, True) if not self._by_voltage(i)]
        self._limit = {i: bus.read(i, table.CURRENT_LIMIT) for i in by_current}
        self._say_once()

    def found(self, torqued: Mapping[int, bool]) -> list[int]:
        """Servos with torque that push, as a process that was killed has left them.

        Raises:
            DeviceError: a servo does not answer.
        """
        return [i for i in self._order if self._feel and torqued[i] and self._pushes(i)]

    def _nm_per_a(self, servo_id: int) -> float:
        servos = 2 if servo_id in self._shadow_of else 1
        return NM_PER_A.get(self._models[servo_id].name, np.nan) * servos

    def _pushes(self, servo_id: int) -> bool:
        if self._by_voltage(servo_id):
            return self._bus.read(servo_id, GOAL_PWM) < self._bus.read(servo_id, PWM_LIMIT)
        return self._bus.read(servo_id, table.OPERATING_MODE) == MODE_CURRENT

    def _by_voltage(self, servo_id: int) -> bool:
        """Whether this is a sprung gripper without current control."""
        sprung = servo_id == self._gripper and self._spring is not None
        return sprung and self._models[servo_id].current_unit_a is None

    def _say_once(self) -> None:
        """In words, what the servos of this arm cannot do."""
        without = [i for i in self._order if i in self._joints and not self._can_push(i)]
        if without and not self._told:
            log.warning(
                "%s: %s cannot push, having no current control: limp when the arm is let go",
                self._arm,
                ", ".join(f"{self._bus.servos[i]}, {self._models[i].name}," for i in without),
            )
        if self._gripper is not None and self._by_voltage(self._gripper) and not self._told:
            log.warning(
                "%s: its gripper, %s, has no current control: the spring pushes by voltage, with "
                "the same torque anywhere",
                self._arm,
                self._models[self._gripper].name,
            )
        self._told = True

    def _can_push(self, servo_id: int) -> bool:
        return bool(np.isfinite(self._nm_per_a(servo_id)))

    # Changing over, torque being off.

    def able(self, joints: bool, gripper: bool) -> list[int]:
        """Servos that are to push when the joints, the gripper, or both are let go."""
        ids = [i for i in self._order if joints and i in self._joints and self._can_push(i)]
        if gripper and self._gripper is not None and self._spring is not None:
            ids.append(self._gripper)
        return ids

    def begin(self, ids: Iterable[int]) -> list[int]:
        """Ready servos that have no torque to push, with nothing at first; returns them.

        Raises:
            DeviceError: a servo does not take a setting, or has torque.
            DeviceLostError: the port has gone.
        """
        ready = []
        for servo_id in ids:
            ready.append(servo_id)
            self.ids.add(servo_id)
            if self._by_voltage(servo_id):
                self._wind(servo_id)
                continue
            self._set_mode(servo_id, MODE_CURRENT)
            self._bus.write(servo_id, table.GOAL_CURRENT, 0)
            for each in self.pair(servo_id):
                if current := self._bus.read(each, table.GOAL_CURRENT):
                    raise DeviceError(
                        f"{self._arm}: {self._bus.servos[each]} keeps goal current {current} "
                        "though 0 was written; it stays limp; check its Secondary ID and cable"
                    )
        self._pack()
        return ready

    def end(self, ids: Collection[int]) -> list[str]:
        """Make servos that have no torque ready to hold again; returns the failures in words.

        Raises:
            DeviceLostError: the port has gone.
        """
        failures = []
        for servo_id in ids:
            try:
                if self._by_voltage(servo_id):
                    # Also when it was another process that had wound it.
                    full = self._bus.read(servo_id, PWM_LIMIT)
                    self._bus.write(servo_id, GOAL_PWM, full)
                elif servo_id in self.ids:
                    self._set_mode(servo_id, self._holding_mode(servo_id))
                self.ids.discard(servo_id)
            except DeviceLostError:
                raise
            except DeviceError as error:
                failures.append(str(error))
        self._pack()
        return failures

    def write(self, current_a: FloatArray) -> bool:
        """Tell the servos in current mode theirs of all currents; whether there are any.

        Raises:
            SafetyError: a current is not a finite number, or their count is wrong.
            DeviceLostError: the port has gone.
        """
        if current_a.shape != (len(self._order),) or not np.isfinite(current_a).all():
            raise SafetyError(
                f"{self._arm}: not {len(self._order)} finite currents: {current_a.tolist()}"
            )
        if self._packer is None:
            return False
        units = np.rint(current_a[self._columns] / self._unit_a)
        # Beyond its limit a servo would keep the current it had.
        units = np.minimum(np.maximum(units, -self._most), self._most)
        self._bus.port.write_all(self._packer.pack(units.astype(np.int32)))
        return True

    def _wind(self, servo_id: int) -> None:
        """Hold the rest position with little voltage: a gripper's spring without a current."""
        if self._scale is None or self._spring is None:
            return
        part = self._spring.max_torque_nm / STALL_NM[self._models[servo_id].name]
        pwm = max(1, round(PWM_FULL * part))
        rest_rad = self._scale.angle_rad(self._spring.rest_opening)
        self._bus.write(servo_id, GOAL_PWM, min(pwm, self._bus.read(servo_id, PWM_LIMIT)))
        self._bus.write(servo_id, table.GOAL_POSITION, table.tick_from_rad(rest_rad))

    def _holding_mode(self, servo_id: int) -> int:
        if servo_id == self._gripper and self._model.gripper is not None:
            return OPERATING_MODES[self._model.gripper.operating_mode]
        return table.MODE_POSITION

    def _set_mode(self, servo_id: int, mode: int) -> None:
        """In EEPROM, so shadows do not mirror it; not by ``configure``, which would log it."""
        for each in self.pair(servo_id):
            self._bus.write(each, table.OPERATING_MODE, mode)
            if (kept := self._bus.read(each, table.OPERATING_MODE)) != mode:
                raise DeviceError(
                    f"{self._arm}: {self._bus.servos[each]} keeps operating mode {kept} though "
                    f"{mode} was written; replace or reset the servo"
                )

    def pair(self, servo_id: int) -> list[int]:
        """A primary and its shadow, if it has one."""
        shadow = self._shadow_of.get(servo_id)
        return [servo_id] if shadow is None else [servo_id, shadow]

    def _pack(self) -> None:
        """Prebuild the packet of currents for the servos that are in current mode now."""
        ids = [i for i in self._order if i in self.ids and not self._by_voltage(i)]
        self._packer = GroupWrite(ids, table.GOAL_CURRENT) if ids else None
        if ids:
            self._columns: NDArray[np.intp] = np.array(
                [self._order.index(i) for i in ids], dtype=np.intp
            )
            self._unit_a = np.array([self._models[i].current_unit_a for i in ids], np.float64)
            self._most = np.array([self._limit[i] for i in ids], np.float64)
