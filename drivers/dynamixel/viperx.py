"""ViperX and WidowX arms, and any other arm of Dynamixel X servos on one bus.

One servo moves each joint, or two: the second, the shadow, mirrors the first by its
Secondary ID, so that the control loop speaks to the first ("primary") only. Angles are as
the servos report them, 0 rad at tick 2048; a servo mounted the other way round is reversed
by its own drive mode, never here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from drivers.base import ArmReading, DeviceHealth
from drivers.dynamixel import bus as dynamixel_bus
from drivers.dynamixel import setup as dynamixel_setup
from drivers.dynamixel import table
from drivers.dynamixel.bus import DynamixelBus
from drivers.dynamixel.codec import GroupReader, GroupWrite, RecordArray, alerts_in
from drivers.dynamixel.feel import ServoPush
from drivers.dynamixel.health import HealthPoll
from drivers.dynamixel.port import ServoPort
from drivers.dynamixel.table import Register
from drivers.dynamixel.units import MOTION, ArmUnits
from teleop.clock import ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import FloatArray
from teleop.rig_dynamixel import DynamixelArm as ArmConfig
from teleop.rig_dynamixel import DynamixelArmModel

log = logging.getLogger(__name__)

SPARES = (0, 2, 3, 4)
"""Bytes read before the block in the generations after a failure: present PWM (2 bytes),
moving status, moving."""


class DynamixelArm:
    """One arm of Dynamixel servos.

    Effort is motor current in ampere, of the primary servo alone where a joint has two;
    NaN where the servo model has no current sensor.

    Args:
        name: The arm's name in the rig.
        arm: Its description.
        model: The description of its kind.
        open_port: Makes a closed port; called at every ``connect``, because a port that
            was lost cannot be used again.
        watchdog_s: Silence after which servos of a follower, or a leader with ``feel``, stop.
        sysfs: Where the kernel shows USB adapters.
    """

    def __init__(
        self,
        name: str,
        arm: ArmConfig,
        model: DynamixelArmModel,
        open_port: Callable[[], ServoPort],
        watchdog_s: float,
        sysfs: Path = Path("/sys"),
    ) -> None:
        self.name = name
        self.joint_names = tuple(joint.name for joint in model.joints)
        self.has_gripper = model.gripper is not None
        self._arm = arm
        self._model = model
        self._open_port = open_port
        self._sysfs = sysfs
        self._count = len(model.joints)
        self._ids = [joint.id for joint in model.joints]
        if model.gripper is not None:
            self._ids.append(model.gripper.id)
        self._units = ArmUnits(name, arm, model)
        self._push = ServoPush(name, arm, model)
        self.torque_per_ampere = self._push.torque_per_ampere
        self._watchdog_s = watchdog_s if arm.role == "follower" or arm.feel else 0.0
        self._connected = False
        self._armed = False
        self._last_packet_ns = 0
        self._alerts: list[int] = []
        self._torqued = dict.fromkeys(self._ids, False)  # As commanded or found, per primary.
        self._unsure = False  # Servos fell silent since torque was last looked at.
        self._counts = {"read_retries": 0.0, "read_failures": 0.0, "watchdog_trips": 0.0}

    # Coming and going.

    def connect(self) -> None:
        """See ``drivers.base.Arm``. Servos found with torque on keep holding.

        Those that had it before the port was lost and have none now are told by ``poll_health``.
        """
        self._release()
        port = self._open_port()
        dynamixel_bus.check_latency_timer(
            self.name, port.port_name, self._arm.usb_latency_timer_ms, self._sysfs
        )
        self._bus = DynamixelBus(self.name, dynamixel_setup.servos_of(self._model), port)
        self._bus.open()
        try:
            self._bring_up(port)
        except BaseException:
            port.closePort()
            raise
        self._connected = True

    def _bring_up(self, port: ServoPort) -> None:
        bus, arm = self._bus, self._arm
        self._models = dynamixel_bus.identify(bus)
        bus.write_all(table.STATUS_RETURN_LEVEL, table.REPLY_TO_ALL)
        dynamixel_setup.check_firmware(bus, self._ids, arm, watched=self._watchdog_s > 0)
        timeout_s = arm.read_timeout_s
        self._reader = GroupReader(port, self._ids, MOTION, timeout_s, SPARES, arm.fast_sync_read)
        self._torque = GroupReader(port, list(bus.servos), [table.TORQUE_ENABLE], timeout_s)
        self._watchdog = GroupReader(port, self._ids, [table.BUS_WATCHDOG], timeout_s)
        self._write_whole = GroupWrite(self._ids, table.GOAL_POSITION)
        self._write_joints = GroupWrite(self._ids[: self._count], table.GOAL_POSITION)
        self._poll = HealthPoll(bus.servos.values(), port, timeout_s)
        self._units.learn([self._models[i] for i in self._ids])
        self._push.learn(bus, self._models)
        seen = self._see_torque()
        self._torqued = {i: self._torqued[i] or self._has_torque(seen, i) for i in self._ids}
        if pushing := self._push.found(self._torqued):
            self._switch(pushing, False)
        if self._ask(self._watchdog)[table.BUS_WATCHDOG.name].any():
            self._clear_watchdog()
        ranges = (self._units.joint_ranges_rad, self._units.gripper_range_rad)
        dynamixel_setup.configure_eeprom(bus, self._model, *ranges, self._models)
        for servo_id in self._ids:
            dynamixel_setup.configure_ram(bus, self._model, self._models, servo_id)
        self._last_packet_ns = port.clock.now_ns()

    def close(self) -> None:
        """See ``drivers.base.Arm``."""
        if self._connected and self._bus.port.is_open:
            try:
                if not self._switch(self._pushing, False):  # Else silence makes them limp.
                    self._bus.write_all(table.BUS_WATCHDOG, table.WATCHDOG_OFF)
            except DeviceLostError as error:
                log.warning("%s: closing: %s", self.name, error)
        self._release()

    def _release(self) -> None:
        if self._connected:
            self._connected = False
            self._armed = False
            self._bus.port.closePort()

    # The control loop.

    def read(self) -> ArmReading:
        """See ``drivers.base.Arm``."""
        self._watch_silence()
        records = self._ask(self._reader)
        stamp_ns = self._last_packet_ns = self._bus.port.clock.now_ns()
        self._alerts = alerts_in(records, self._ids) if records["error"].any() else []
        return self._units.reading(records, stamp_ns)

    def write(self, position_rad: FloatArray, gripper: float | None) -> None:
        """See ``drivers.base.Arm``. Goals beyond the joint limits go to the limit.

        Raises:
            SafetyError: a goal is not a finite number, or their count is wrong.
            DeviceError: the bus watchdog had stopped the arm; it holds and may be commanded
                again.
            DeviceLostError: the port has gone.
        """
        self._watch_silence()
        opening = gripper if self.has_gripper else None
        ticks = self._units.goal_ticks(position_rad, opening)
        packer = self._write_joints if opening is None else self._write_whole
        self._bus.port.write_all(packer.pack(ticks))
        self._last_packet_ns = self._bus.port.clock.now_ns()

    def poll_health(self) -> DeviceHealth:
        """See ``drivers.base.Arm``: one packet, mostly to one servo.

        A tripped watchdog is told once; the arm then holds again. Torque that went by itself
        is told until ``set_torque``.
        """
        if self._unsure:
            self._see_torque()
            self._unsure = False
        else:
            self._poll.step(self._alerts)
        self._last_packet_ns = self._bus.port.clock.now_ns()
        self._poll.values.update(self._counts)
        self._poll.values["setup_retries"] = float(self._bus.retries)
        self._poll.values["slow_replies"] = float(self._reader.slow_replies)
        health = self._poll.health(self._expected_torque)
        if self._poll.tripped:
            self._recover_from_trip()
        return health

    # Torque.

    def set_torque(self, joints: bool, gripper: bool) -> None:
        """See ``drivers.base.Arm``. Settings that a reboot lost are written again.

        Raises:
            DeviceError: naming every servo that does not obey; the others have obeyed.
            DeviceLostError: the port has gone.
        """
        wanted = dict.fromkeys(self._ids[: self._count], joints)
        wanted.update(dict.fromkeys(self._ids[self._count :], gripper))
        seen = self._find_torque()
        had = [i for i in self._ids if any(seen[k] for k in self._push.pair(i))]
        off = [i for i in had if i in self._push.ids or not wanted[i]]
        on = [i for i in self._ids if wanted[i] and (i in self._push.ids or not self._torqued[i])]
        faults = self._switch(off, False)
        if off or on:
            self._send(off + on, table.BUS_WATCHDOG, [table.WATCHDOG_OFF] * len(off + on))
        faults += self._push.end(on)
        if on := [i for i in on if i not in self._push.ids]:
            for servo_id in on:
                dynamixel_setup.configure_ram(self._bus, self._model, self._models, servo_id)
            self._hold(on)
            faults += self._switch(on, True)
        self._arm_watchdog()
        if faults:
            raise DeviceError("; ".join(faults))

    def set_push(self, joints: bool, gripper: bool) -> None:
        """See ``drivers.base.PushingArm``."""
        self._start_pushing(i for i in self._push.able(joints, gripper) if not self._torqued[i])

    def push(self, current_a: FloatArray) -> None:
        """See ``drivers.base.PushingArm``."""
        self._watch_silence()
        if self._push.write(current_a):
            self._last_packet_ns = self._bus.port.clock.now_ns()

    def torque_off(self) -> list[str]:
        """See ``drivers.base.Arm``: by broadcast first, then each servo, shadows too."""
        if not self._connected:
            return [f"{self.name}: not connected, so its torque could not be switched off"]
        failures = []
        try:
            self._bus.write_all(table.TORQUE_ENABLE, 0)
            self._bus.write_all(table.BUS_WATCHDOG, table.WATCHDOG_OFF)
        except DeviceError as error:
            failures.append(str(error))
        for servo_id in self._bus.servos:
            if not self._bus.port.is_open:
                break
            try:
                self._bus.write(servo_id, table.TORQUE_ENABLE, 0)
            except DeviceError as error:
                failures.append(str(error))
        self._torqued = dict.fromkeys(self._ids, False)
        self._poll.forget_torque()
        self._armed = False
        return failures

    def reboot_failed(self) -> list[str]:
        """See ``drivers.base.Arm``."""
        servos = self._bus.servos
        failed = [i for i in servos if self._bus.read(i, table.HARDWARE_ERROR)]
        # The others hear nothing while these restart, and shall not stop for that.
        self._bus.write_all(table.BUS_WATCHDOG, table.WATCHDOG_OFF)
        try:
            self._bus.reboot(failed)
        finally:
            self._arm_watchdog()
        for servo_id in failed:
            self._poll.errors.pop(servo_id, None)
        self._alerts = []
        self._find_torque()
        return [str(servos[i]) for i in failed]

    # Details.

    def _ask(self, reader: GroupReader) -> RecordArray:
        """The records of all servos asked, in at most ``read_retries`` more attempts.

        Raises:
            DeviceError: naming the servos that gave no valid answer.
            DeviceLostError: the port has gone.
        """
        attempts = 1 + self._arm.read_retries
        for attempt in range(attempts):
            reply = reader.read()
            if not reply.missing:
                return reply.records
            self._counts["read_retries"] += attempt + 1 < attempts
        self._counts["read_failures"] += 1
        self._unsure = True
        silent = [str(self._bus.servos[i]) for i in reply.missing]
        who = "any servo" if len(silent) == len(reader.ids) else ", ".join(silent)
        raise DeviceError(
            f"{self.name}: no valid answer from {who} in {attempts} attempts; "
            "check the arm's power and the cables at these joints"
        )

    def _see_torque(self) -> dict[int, bool]:
        """Read which servos have torque, shadows too."""
        on = self._ask(self._torque)[table.TORQUE_ENABLE.name]
        seen = {i: bool(t) for i, t in zip(self._bus.servos, on, strict=True)}
        self._poll.torqued.update(seen)
        return seen

    def _find_torque(self) -> dict[int, bool]:
        """Read which servos have torque, and take that as what they should have."""
        seen = self._see_torque()
        self._torqued = {i: self._has_torque(seen, i) for i in self._ids}
        self._poll.forget_torque()
        return seen

    def _has_torque(self, seen: Mapping[int, bool], servo_id: int) -> bool:
        """A joint has torque when its shadow has it too."""
        return all(seen[k] for k in self._push.pair(servo_id))

    @property
    def _expected_torque(self) -> dict[int, bool]:
        return {k: on for i, on in self._torqued.items() for k in self._push.pair(i)}

    @property
    def _pushing(self) -> list[int]:
        """Servos that push now, in the order of the arm."""
        return [i for i in self._ids if i in self._push.ids and self._torqued[i]]

    def _start_pushing(self, ids: Iterable[int]) -> None:
        faults = self._switch(self._push.begin(ids), True)
        self._arm_watchdog()
        if faults:
            raise DeviceError("; ".join(faults))

    def _switch(self, ids: Sequence[int], on: bool) -> list[str]:
        """Switch each servo; returns the failures in words. Shadows follow by themselves."""
        failures = []
        for servo_id in ids:
            try:
                self._bus.write(servo_id, table.TORQUE_ENABLE, int(on))
            except DeviceLostError:
                raise
            except DeviceError as error:
                failures.append(str(error))
            else:
                self._torqued[servo_id] = on
        self._poll.forget_torque()
        return failures

    def _hold(self, ids: Sequence[int]) -> None:
        """Make the present position the goal of these servos."""
        records = self._ask(self._reader)
        present = records[table.PRESENT_POSITION.name].astype(np.float64)
        ticks = dict(zip(self._ids, self._units.within_limits(present), strict=True))
        self._send(ids, table.GOAL_POSITION, [int(ticks[i]) for i in ids])

    def _send(self, ids: Sequence[int], register: Register, values: Sequence[int]) -> None:
        self._bus.port.write_all(GroupWrite(ids, register).pack(values))

    def _arm_watchdog(self) -> None:
        """Servos whose torque is on stop by themselves when the bus falls silent."""
        ids = [i for i in self._ids if self._torqued[i]]
        self._armed = bool(ids) and self._watchdog_s > 0
        if self._armed:
            units = max(1, round(self._watchdog_s / table.WATCHDOG_UNIT_S))
            self._send(ids, table.BUS_WATCHDOG, [units] * len(ids))
        self._last_packet_ns = self._bus.port.clock.now_ns()

    def _clear_watchdog(self) -> None:
        """Disarm, and let servos that had stopped hold where they are, not run to an old goal."""
        self._bus.write_all(table.BUS_WATCHDOG, table.WATCHDOG_OFF)
        self._armed = False
        if holding := [i for i in self._ids if self._torqued[i]]:
            self._hold(holding)

    def _recover_from_trip(self) -> None:
        pushing = self._pushing
        self._switch(pushing, False)  # Else an old current might come back.
        self._clear_watchdog()
        self._start_pushing(pushing)
        self._poll.forget_torque()
        self._counts["watchdog_trips"] += 1

    def _watch_silence(self) -> None:
        """After a silence long enough to trip the watchdog: see whether it has, and recover.

        Raises:
            DeviceError: it had tripped; the arm holds where it stopped, armed again.
        """
        if not self._armed:
            return
        silence_ns = self._bus.port.clock.now_ns() - self._last_packet_ns
        if silence_ns < ns_from_s(self._watchdog_s) // 2:
            return
        self._last_packet_ns = self._bus.port.clock.now_ns()
        state = self._ask(self._watchdog)[table.BUS_WATCHDOG.name]
        if not (state == table.WATCHDOG_TRIPPED).any():
            return
        now = "it was limp meanwhile" if self._pushing else "the arm holds where it stopped"
        self._recover_from_trip()
        raise DeviceError(
            f"{self.name}: its bus watchdog stopped the servos after {silence_ns / 1e9:.2f} s "
            f"without a packet; {now}"
        )
