"""One bus of emulated servos: strict Protocol 2.0, driven by bytes, with no I/O of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from drivers.dynamixel import table as dt
from drivers.emulated.dynamixel import registers as sr
from drivers.emulated.dynamixel.bank import Drive, ServoBank
from drivers.emulated.dynamixel.bus_faults import BusFaults, TimedReply
from drivers.emulated.dynamixel.packets import (
    BROADCAST_ID,
    Instruction,
    InstructionReader,
    fast_status_packet,
    status_packet,
)
from drivers.emulated.dynamixel.registers import ServoRegisters
from drivers.emulated.dynamixel.servo import Servo
from teleop.clock import ns_from_s
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArmModel

PING, READ, WRITE, REG_WRITE, ACTION = 0x01, 0x02, 0x03, 0x04, 0x05
FACTORY_RESET, REBOOT, CLEAR = 0x06, 0x08, 0x10
SYNC_READ, SYNC_WRITE, FAST_SYNC_READ = 0x82, 0x83, 0x8A
BULK_READ, BULK_WRITE, FAST_BULK_READ = 0x92, 0x93, 0x9A

RETURN_DELAY_UNIT_NS = 2_000
CLEAR_MULTI_TURN = b"\x01\x44\x58\x4c\x22"
"""The only clear instruction of these models: the turns counted in extended position mode."""


DEFAULT_BAUD = 1_000_000
"""Of arms that say nothing else: what Interbotix sets."""


class ServoChain:
    """The servos of one arm.

    They begin as a set-up arm's do: ids, models, baud rate, drive modes and secondary ids as
    in the rig, return delay 0, torque off, everything else as from the factory.

    Args:
        arm_name: name of the arm in the rig.
        model: its description.
        bank: the motion model of all axes, this arm's among them.
        faults: what goes wrong; none by default.
    """

    def __init__(
        self,
        arm_name: str,
        model: DynamixelArmModel,
        bank: ServoBank,
        baud: int = DEFAULT_BAUD,
        faults: BusFaults | None = None,
    ) -> None:
        self.arm_name = arm_name
        self.bank = bank
        self.faults = faults or BusFaults()
        self.host_baud = baud
        """Rate at which the host talks; a servo set to another rate hears nothing."""
        self.host: object | None = None
        """Who has the bus open; a port sets and clears it, so that only one does."""
        self.servos = list(_servos(arm_name, baud, model, bank))
        self.reader = InstructionReader()
        self._by_axis = {s.axis: [o for o in self.servos if o.axis == s.axis] for s in self.servos}
        self._heard_ns = 0
        self._now_ns = 0
        self._handlers: dict[int, Callable[[Instruction], list[bytes]]] = {
            PING: self._ping,
            SYNC_READ: self._sync_read,
            FAST_SYNC_READ: self._sync_read,
            BULK_READ: self._bulk_read,
            FAST_BULK_READ: self._bulk_read,
            SYNC_WRITE: self._sync_write,
            BULK_WRITE: self._bulk_write,
        }

    def servo(self, servo_id: int) -> Servo:
        """The servo that bears an id, listening or not.

        Raises:
            KeyError: none does.
        """
        for servo in self.servos:
            if servo.servo_id == servo_id:
                return servo
        raise KeyError(servo_id)

    def leave_on(self) -> None:
        """Torque as another program left it: the joints hold where they are."""
        joints = (s for s in self.servos if self.bank.axes[s.axis].name != "gripper")
        for servo in joints:
            servo.registers.table[dt.TORQUE_ENABLE.address] = 1
            self._redrive(servo)

    def receive(self, data: bytes, now_ns: int) -> list[TimedReply]:
        """Feed bytes from the host; returns what it will get back and when, in order."""
        self.advance(now_ns)
        if self.faults.unplugged:
            self.reader.clear()
            return []
        replies: list[TimedReply] = []
        for instruction in self.reader.feed(data):
            self._heard_ns = now_ns
            delay_ns = self._return_delay_ns(instruction)
            packets = self._handlers.get(instruction.code, self._unicast)(instruction)
            if packets:
                replies += self.faults.deliver(packets, now_ns + delay_ns * len(packets))
        return replies

    def advance(self, now_ns: int) -> None:
        """Let time pass without bytes: pending faults happen, and the bus watchdogs watch."""
        self._now_ns = now_ns
        while (event := self.faults.take_event()) is not None:
            if event.kind == "brown_out":
                self._restart(self.servos)
                continue
            servo = self.servo(event.servo_id)
            if event.kind == "overload":
                servo.registers.raise_error(sr.OVERLOAD)
                self._redrive(servo)
            else:
                servo.registers.set(8, dt.BAUD_RATES[event.baud])
        for servo in self.servos:
            if servo.watched:
                allowed_ns = servo.registers.table[98] * ns_from_s(dt.WATCHDOG_UNIT_S)
                if now_ns - self._heard_ns > allowed_ns:
                    servo.stop_by_watchdog()
                    self.bank.hold(servo.axis)
                    self._redrive(servo)

    # Who hears, who answers.

    def _listening(self) -> list[Servo]:
        rate, absent = dt.BAUD_RATES.get(self.host_baud), self.faults.servo_absent
        return [
            servo
            for servo in self.servos
            if servo.deaf_until_ns <= self._now_ns
            and servo.registers.table[8] == rate
            and servo.servo_id not in absent
        ]

    def _return_delay_ns(self, instruction: Instruction) -> int:
        """Of each status packet; in a group the slowest servo's stands for all."""
        wanted = instruction.servo_id
        delays = [s.registers.table[9] for s in self.servos if wanted in (s.servo_id, BROADCAST_ID)]
        return RETURN_DELAY_UNIT_NS * max(delays, default=0)

    def _ping(self, instruction: Instruction) -> list[bytes]:
        return [
            status_packet(s.servo_id, s.registers.alert, s.registers.identity)
            for s in sorted(self._listening(), key=lambda s: s.servo_id)
            if instruction.servo_id in (s.servo_id, BROADCAST_ID)
        ]

    def _unicast(self, instruction: Instruction) -> list[bytes]:
        """Everything that one servo answers, and that its shadows obey."""
        answer: list[bytes] = []
        everyone = instruction.servo_id == BROADCAST_ID
        for servo in self._listening():
            mine = servo.servo_id == instruction.servo_id
            if not mine and not everyone and servo.follows != instruction.servo_id:
                continue
            shadow = not mine and not everyone
            level = servo.registers.table[68]
            error, data = self._carry_out(servo, instruction, shadow)
            needed = 1 if instruction.code == READ else 2
            if mine and level >= needed:
                alert = servo.registers.alert
                answer = [status_packet(instruction.servo_id, error | alert, data)]
        return answer

    def _carry_out(self, servo: Servo, instruction: Instruction, shadow: bool) -> tuple[int, bytes]:
        code, params = instruction.code, instruction.params
        registers = servo.registers
        if code == READ:
            if len(params) != 4:
                return sr.LENGTH_ERROR, b""
            return self._read(servo, _word(params, 0), _word(params, 2))
        if code in (WRITE, REG_WRITE):
            if len(params) < 3:
                return sr.LENGTH_ERROR, b""
            address, data = _word(params, 0), params[2:]
            if shadow and address < 64:
                return 0, b""
            if code == WRITE:
                return self._write(servo, address, data), b""
            registers.pending = (address, data)
            registers.table[sr.REGISTERED] = 1
        elif code == ACTION:
            return self._act(servo), b""
        elif shadow:
            pass  # a secondary id mirrors writes only
        elif code == REBOOT:
            self._restart([servo])
        elif code == FACTORY_RESET:
            registers.reset_factory(params[0] if params else 0)
            self._restart([servo])
        elif code == CLEAR:
            known = params == CLEAR_MULTI_TURN
            return (servo.clear_turns(self.bank) if known else sr.RANGE_ERROR), b""
        else:
            return sr.INSTRUCTION_ERROR, b""
        return 0, b""

    def _act(self, servo: Servo) -> int:
        registers = servo.registers
        if registers.pending is None:
            return sr.RESULT_FAIL
        (address, data), registers.pending = registers.pending, None
        registers.table[sr.REGISTERED] = 0
        return self._write(servo, address, data)

    # Group instructions.

    def _sync_read(self, instruction: Instruction) -> list[bytes]:
        params = instruction.params
        if len(params) < 5:
            return []
        wanted = [(i, _word(params, 0), _word(params, 2)) for i in params[4:]]
        return self._group_read(wanted, fast=instruction.code == FAST_SYNC_READ)

    def _bulk_read(self, instruction: Instruction) -> list[bytes]:
        params = instruction.params
        starts = range(0, len(params) - 4, 5)
        wanted = [(params[i], _word(params, i + 1), _word(params, i + 3)) for i in starts]
        return self._group_read(wanted, fast=instruction.code == FAST_BULK_READ)

    def _group_read(self, wanted: Iterable[tuple[int, int, int]], fast: bool) -> list[bytes]:
        """Each servo answers after the one before it; behind a silent one all stay silent."""
        listening = {s.servo_id: s for s in self._listening()}
        parts = []
        for servo_id, address, count in wanted:
            servo = listening.get(servo_id)
            if servo is None or servo.registers.table[68] == 0:
                break
            error, data = self._read(servo, address, count)
            parts.append((servo_id, error | servo.registers.alert, data))
        else:
            if fast and parts:
                return [fast_status_packet(parts)]
        return [] if fast else [status_packet(*part) for part in parts]

    def _sync_write(self, instruction: Instruction) -> list[bytes]:
        params = instruction.params
        if len(params) < 5:
            return []
        address, count = _word(params, 0), _word(params, 2)
        rows = range(4, len(params) - count, count + 1)
        self._group_write((params[i], address, params[i + 1 : i + 1 + count]) for i in rows)
        return []

    def _bulk_write(self, instruction: Instruction) -> list[bytes]:
        params, at = instruction.params, 0
        while at + 5 <= len(params):
            end = at + 5 + _word(params, at + 3)
            if end <= len(params):
                self._group_write([(params[at], _word(params, at + 1), params[at + 5 : end])])
            at = end
        return []

    def _group_write(self, rows: Iterable[tuple[int, int, bytes]]) -> None:
        hearing: dict[int, list[Servo]] = {}
        for servo in self._listening():
            hearing.setdefault(servo.servo_id, []).append(servo)
            if servo.follows != dt.NO_SECONDARY_ID:
                hearing.setdefault(servo.follows, []).append(servo)
        for servo_id, address, data in rows:
            for servo in hearing.get(servo_id, ()):
                if servo.servo_id == servo_id or address >= 64:
                    self._write(servo, address, data)

    # What reading and writing do to the servo and its joint.

    def _read(self, servo: Servo, address: int, count: int) -> tuple[int, bytes]:
        for at, n in servo.registers.spans(address, count):
            if at + n > 116:  # a goal never given reads as the present position
                servo.measure(self.bank, at + n)
        return servo.registers.read(address, count)

    def _write(self, servo: Servo, address: int, data: bytes) -> int:
        spans = servo.registers.spans(address, len(data))
        if error := servo.registers.write(address, data):
            return error
        for at, count in spans:
            self._obey(servo, at, at + count)
        return 0

    def _obey(self, servo: Servo, address: int, end: int) -> None:
        """Do what the registers from ``address`` up to ``end`` now say."""
        registers = servo.registers
        if address <= 11 < end:
            servo.goal_given = False
        if address < 120 and end > 116:
            servo.goal_given = True
        if address < 104:
            self._redrive(servo)
        if registers.torque_on and self._master(servo) is servo:
            if address < 116 and (end > 108 or address <= 64 < end):
                servo.send_profile(self.bank)
            if end > 104 or address <= 64 < end:
                servo.send_goal(self.bank)

    def _master(self, servo: Servo) -> Servo | None:
        """Of the servos on this joint the first with torque: its goals count."""
        return next((s for s in self._by_axis[servo.axis] if s.registers.torque_on), None)

    def _redrive(self, servo: Servo) -> None:
        """Tell the bank how the joint is driven now."""
        master = self._master(servo)
        if master is None:
            self.bank.drive(servo.axis, Drive(power=0.0))
            return
        on = sum(s.registers.torque_on for s in self._by_axis[servo.axis])
        self.bank.drive(servo.axis, master.drive(on / servo.joint_servos, self.bank))

    def _restart(self, servos: Iterable[Servo]) -> None:
        for servo in servos:
            servo.restart(self._now_ns)
            self._redrive(servo)


def chains_of(rig: Rig, bank: ServoBank) -> dict[str, ServoChain]:
    """A chain for every arm of servos, by name, all moving the axes of one bank."""
    return {
        name: ServoChain(name, model, bank, getattr(arm, "baud", DEFAULT_BAUD))
        for name, arm in rig.arms.items()
        if isinstance(model := rig.arm_model(name), DynamixelArmModel)
    }


def _servos(arm_name: str, baud: int, model: DynamixelArmModel, bank: ServoBank) -> Iterator[Servo]:
    def servo(
        kind: str, servo_id: int, joint: str, reverse: bool, count: int, follows: int | None = None
    ) -> Servo:
        registers = ServoRegisters(kind, servo_id, baud)
        registers.set(9, 0)
        registers.set(10, dt.DRIVE_REVERSE if reverse else 0)
        registers.set(12, dt.NO_SECONDARY_ID if follows is None else follows)
        return Servo(registers, bank.index(arm_name, joint), reverse, count)

    for joint in model.joints:
        count = 1 if joint.shadow_id is None else 2
        yield servo(joint.servo, joint.id, joint.name, joint.reverse, count)
        if joint.shadow_id is not None:
            shadow = (joint.servo, joint.shadow_id, joint.name, joint.shadow_reverse)
            yield servo(*shadow, count, follows=joint.id)
    if (gripper := model.gripper) is not None:
        yield servo(gripper.servo, gripper.id, "gripper", gripper.reverse, 1)


def _word(data: bytes, at: int) -> int:
    return data[at] | data[at + 1] << 8
