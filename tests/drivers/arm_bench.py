"""An arm node over a stand-in arm in virtual time, for its tests."""

from typing import cast

import numpy as np

from drivers.arm.node import ArmNode
from drivers.base import ArmReading, DeviceHealth
from teleop import topics
from teleop.clock import VirtualClock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import (
    POSITION,
    ArmApplied,
    ArmCommand,
    ArmState,
    FloatArray,
    Message,
    StopState,
)
from teleop.node import Inputs, Received
from teleop.rig import Rig

TICK_NS = 10_000_000
LAG_S = 0.05


class FirstOrderArm:
    """A stand-in arm: each joint approaches its goal with a first-order lag."""

    has_gripper = True

    def __init__(self, clock: VirtualClock, start_rad: FloatArray) -> None:
        self.joint_names = tuple(f"joint{i}" for i in range(len(start_rad)))
        self.q = start_rad.copy()
        self.goal = start_rad.copy()
        self.gripper = 0.5
        self.torque = (False, False)
        self.torque_calls: list[tuple[bool, bool]] = []
        self.torque_failures: list[str] = []
        self.torque_offs = 0
        self.writes: list[FloatArray] = []
        self.written_grippers: list[float | None] = []
        self.read_error: DeviceError | None = None
        self.torque_error: DeviceError | None = None
        self.connect_error: DeviceError | None = None
        self.reboot_error: DeviceError | None = None
        self.reboots = 0
        self.health = DeviceHealth()
        self.connects = 0
        self.closed = False
        self._clock = clock

    def connect(self) -> None:
        self.connects += 1
        if self.connect_error is not None:
            raise self.connect_error
        self.read_error = None

    def read(self) -> ArmReading:
        if self.read_error is not None:
            raise self.read_error
        if self.torque[0]:
            self.q += (self.goal - self.q) * (TICK_NS / 1e9 / LAG_S)
        zeros = np.zeros_like(self.q)
        return ArmReading(self._clock.now_ns(), self.q.copy(), zeros, zeros, self.gripper, 0.0, 0.0)

    def write(self, position_rad: FloatArray, gripper: float | None) -> None:
        if isinstance(self.read_error, DeviceLostError):
            raise self.read_error
        self.writes.append(position_rad)
        self.written_grippers.append(gripper)
        self.goal = position_rad

    def set_torque(self, joints: bool, gripper: bool) -> None:
        self.torque_calls.append((joints, gripper))
        if self.torque_error is not None:
            raise self.torque_error
        if joints and not self.torque[0]:
            self.goal = self.q.copy()
        self.torque = (joints, gripper)

    def torque_off(self) -> list[str]:
        self.torque = (False, False)
        self.torque_offs += 1
        return self.torque_failures

    def reboot_failed(self) -> list[str]:
        self.reboots += 1
        if self.reboot_error is not None:
            raise self.reboot_error
        self.health = DeviceHealth()
        return ["gripper (id 9)"]

    def poll_health(self) -> DeviceHealth:
        return self.health

    def close(self) -> None:
        self.closed = True


class Bench:
    """One arm node in virtual time, with a commander and a session that a test can silence."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.clock = VirtualClock(1_000_000_000)
        self.start_rad = np.array(rig.arm_model(name).start_rad)
        self.arm = FirstOrderArm(self.clock, self.start_rad)
        self.node = ArmNode(name, rig, self.arm, self.clock)
        self.names = [joint.name for joint in rig.arm_model(name).joints]
        self.stop = False
        self.session_speaks = True
        self.states: list[ArmState] = []
        self.applied: list[ArmApplied] = []
        self._command = topics.arm_command(name)
        self._seq = 0

    def command(self, position_rad: FloatArray, **changes: object) -> ArmCommand:
        now_ns = self.clock.now_ns()
        self._seq += 1
        fields: dict[str, object] = {
            "stamp_ns": now_ns,
            "seq": self._seq,
            "position_rad": position_rad,
            "gripper": 0.5,
            "valid_until_ns": now_ns + ns_from_s(0.1),
            "source": "test",
            "lease": "one",
            "mode": POSITION,
            "origin_ns": now_ns - 1,
        }
        return ArmCommand(**(fields | changes))  # type: ignore[arg-type]

    def tick(self, *commands: ArmCommand, skip_ns: int = TICK_NS) -> None:
        self.clock.sleep_until_ns(self.clock.now_ns() + skip_ns)
        now_ns = self.clock.now_ns()
        by_topic: dict[str, list[Received]] = {}
        if commands:
            by_topic[self._command] = [Received(command, now_ns) for command in commands]
        if self.session_speaks:
            said = StopState(now_ns, 0, self.stop, "")
            by_topic[topics.SESSION_STOP] = [Received(said, now_ns)]
        for topic, message in self.node.step(Inputs(by_topic), now_ns):
            self._file(topic, message)

    def _file(self, topic: str, message: Message) -> None:
        if topic.endswith("/state"):
            self.states.append(cast(ArmState, message))
        else:
            self.applied.append(cast(ArmApplied, message))

    def ticks(self, count: int, position_rad: FloatArray | None = None, **changes: object) -> None:
        """Several ticks, each with a fresh command if a pose is given."""
        for _ in range(count):
            if position_rad is None:
                self.tick()
            else:
                self.tick(self.command(position_rad, **changes))

    def follow(self) -> None:
        """Come to follow commands at the start pose."""
        self.ticks(2)
        self.ticks(3, self.start_rad)
        assert self.node.mode == "follow"

    @property
    def detail(self) -> str:
        return self.node.health(self.clock.now_ns()).detail

    def count(self, name: str) -> float:
        return self.node.health(self.clock.now_ns()).values[name]

    def path(self, since: int = 0) -> FloatArray:
        return np.array([applied.position_rad for applied in self.applied[since:]])


def offset(bench: Bench, rad: float, joint: int = 0) -> FloatArray:
    pose = bench.start_rad.copy()
    pose[joint] += rad
    return pose


def assert_smooth(applied: list[ArmApplied]) -> None:
    """Within the shipped follower's limits: 0.2 rad, 3.14 rad/s and 20 rad/s^2."""
    steps = np.diff([a.position_rad for a in applied], axis=0)
    times_s = np.diff([a.stamp_ns for a in applied])[:, None] / 1e9
    speeds = steps / times_s
    assert np.abs(steps).max(initial=0) <= 0.2 + 1e-6
    assert np.abs(speeds).max(initial=0) <= 3.14 + 1e-6
    assert (np.abs(np.diff(speeds, axis=0)) <= 20.0 * times_s[1:] + 1e-6).all()
