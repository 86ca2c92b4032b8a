"""Arms whose serial bus is owned by an ``interbotix_xs_sdk`` node.

The same arm model and limits as on a bus of our own (``drivers.dynamixel.viperx``); the node,
reached by a transport, stands between. What that changes:

- the node reads the joints at its own rate (100 Hz), and not while it carries out a service;
- goals go out as one message for all motors, so that the gripper costs no write of its own,
  for which the node would stop for 10 ms;
- no bus watchdog: when this program or the node dies, the servos hold their last goals;
- starting the node switches every motor's torque off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from drivers.base import ArmReading, DeviceHealth
from drivers.interbotix import setup
from drivers.interbotix.health import MotorPoll
from drivers.interbotix.interface import (
    ALL,
    FIRST_STATE_S,
    GROUP_COMMAND,
    SINGLE_COMMAND,
    STATES,
    JointStates,
    XsSdk,
    XsTransport,
)
from drivers.interbotix.units import NodeUnits
from teleop import rig_interbotix
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import FloatArray
from teleop.rig_dynamixel import DynamixelArmModel

T = TypeVar("T")

LOST_AFTER_S = 1.0
"""Silence of the joint states after which the node counts as gone; its longest usual pause, all
operating modes at once, is half a second and happens in ``connect`` only."""
LOST_AFTER_AGES = 4
"""The same as a multiple of the age that is allowed, where that is more."""
WAIT_S = 0.005
"""Pause between looks at what has come."""


class InterbotixArm:
    """One arm behind an ``interbotix_xs_sdk`` node.

    Effort is motor current in ampere; NaN where the servo has no current sensor.

    Args:
        name: The arm's name in the rig.
        arm: Its description.
        model: The description of its kind.
        clock: Stamps what arrives.
        open_transport: Makes a transport that is not yet open; called at every ``connect``.
    """

    def __init__(
        self,
        name: str,
        arm: rig_interbotix.InterbotixArm,
        model: DynamixelArmModel,
        clock: Clock,
        open_transport: Callable[[], XsTransport] | None = None,
    ) -> None:
        self.name = name
        self.joint_names = tuple(joint.name for joint in model.joints)
        self.has_gripper = model.gripper is not None
        self._arm = arm
        self._model = model
        self._clock = clock
        self._open_transport = open_transport or (lambda: transport_of(name, arm, clock))
        self._count = len(model.joints)
        self._units = NodeUnits(name, arm, model)
        self._lost_after_s = max(LOST_AFTER_S, LOST_AFTER_AGES * arm.max_state_age_s)
        self._transport: XsTransport | None = None
        self._poll: MotorPoll | None = None
        self._torqued: dict[str, bool] = {}  # As commanded or found, by motor.
        self._unsure = False  # Reading failed since torque was last looked at.
        self._refused: dict[str, float] = {"stale_states": 0.0, "failed_states": 0.0}

    # Coming and going.

    def connect(self) -> None:
        """See ``drivers.base.Arm``. Motors found with torque on keep holding.

        Those that had it before the node was lost and have none now are told by ``poll_health``.
        """
        self._release()
        transport = self._open_transport()
        try:
            transport.open()
            self._bring_up(transport)
        except BaseException as error:
            transport.close()
            if isinstance(error, DeviceError):
                raise type(error)(f"{self.name}: {error}") from error
            raise
        self._transport = transport
        self._wait_newer()

    def _bring_up(self, transport: XsTransport) -> None:
        sdk = self._sdk = XsSdk(transport)
        states = self._first_states(transport)
        layout = self._layout = setup.find_layout(sdk, self._model, states)
        sensed = setup.check_servos(sdk, layout, self._model)
        self._units.learn(layout.order, sensed)
        setup.check_limits(sdk, layout, self._model, self._units.ranges)
        torqued = self._find_torque()
        setup.configure_modes(sdk, layout, self._model, torqued)
        setup.configure_volatile(sdk, layout, self._model, layout.motors)
        self._torqued = {m: self._torqued.get(m, False) or torqued[m] for m in layout.motors}
        self._poll = MotorPoll(sdk, [*layout.motors, *layout.shadows.values()])
        self._poll.torqued.update(self._find_torque())

    def close(self) -> None:
        """See ``drivers.base.Arm``; the node has no watchdog to disarm."""
        self._release()

    def _release(self) -> None:
        if self._poll is not None:
            self._poll.close()
            self._poll = None
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # The control loop.

    def read(self) -> ArmReading:
        """See ``drivers.base.Arm``: the newest joint states, as old as they may be."""
        states = self._states(self._present())
        age_s = self._age_s(states)
        if age_s > self._arm.max_state_age_s:
            self._refused["stale_states"] += 1
            self._unsure = True
            raise DeviceError(
                f"{self.name}: the newest {STATES} of /{self._arm.robot} are {age_s:.2f} s old, at "
                f"most {self._arm.max_state_age_s:g} s are allowed; see whether the node is busy"
            )
        reading = self._units.reading(states)
        if reading is None:
            self._refused["failed_states"] += 1
            self._unsure = True
            raise DeviceError(
                f"{self.name}: the node of /{self._arm.robot} could not read its servos; "
                "check the arm's power and its bus cable, and see the node's log"
            )
        return reading

    def write(self, position_rad: FloatArray, gripper: float | None) -> None:
        """See ``drivers.base.Arm``. Goals beyond the joint limits go to the limit.

        Raises:
            SafetyError: a goal is not a finite number, or their count is wrong.
            DeviceLostError: the node has gone.
        """
        transport = self._present()
        goals = self._units.goals_rad(position_rad, gripper)
        layout, n = self._layout, self._count
        joints = all(self._torqued[motor] for motor in layout.motors[:n])
        grips = len(goals) > n and self._torqued[layout.motors[n]]
        try:
            if joints and grips:
                values = self._units.in_node_order(goals)
                transport.send(GROUP_COMMAND, {"name": "all", "cmd": values})
            elif joints:
                transport.send(GROUP_COMMAND, {"name": layout.group, "cmd": goals[:n].tolist()})
            elif grips:
                transport.send(SINGLE_COMMAND, {"name": layout.gripper, "cmd": float(goals[n])})
        except DeviceLostError as error:
            raise self._lost(str(error)) from error

    def poll_health(self) -> DeviceHealth:
        """See ``drivers.base.Arm``: takes one register's answer and asks for the next."""
        self._present()
        assert self._poll is not None
        if self._unsure:
            self._poll.torqued.update(self._read_torque())
            self._unsure = False
        else:
            self._named(self._poll.step)
        self._poll.values.update(self._refused)
        return self._poll.health(self._expected_torque)

    # Torque.

    def set_torque(self, joints: bool, gripper: bool) -> None:
        """See ``drivers.base.Arm``. Settings that a reboot lost are written again.

        Raises:
            DeviceError: naming every motor that does not obey; the others have obeyed.
            DeviceLostError: the node has gone.
        """
        self._present()
        motors = self._layout.motors
        wanted = dict.fromkeys(motors[: self._count], joints)
        wanted.update(dict.fromkeys(motors[self._count :], gripper))
        on, off = [], list(motors)
        if any(wanted.values()):  # To let go of all takes no question, and must be quick.
            seen = self._torqued = self._read_torque()
            on = [motor for motor in motors if wanted[motor] and not seen[motor]]
            off = [motor for motor in motors if seen[motor] and not wanted[motor]]
        try:
            self._named(lambda: self._switch(off, False))
            if on:
                self._named(lambda: self._hold(on))
                self._named(lambda: self._switch(on, True))
        finally:
            assert self._poll is not None
            self._poll.forget_torque()
            self._torqued = self._read_torque()
            if on or off:
                self._wait_newer()
        if wrong := [motor for motor in motors if self._torqued[motor] != wanted[motor]]:
            words = ", ".join(f"{m} {'has no' if wanted[m] else 'still has'} torque" for m in wrong)
            raise DeviceError(
                f"{self.name}: {words}; check its power and its bus cable, and see the node's log"
            )

    def torque_off(self) -> list[str]:
        """See ``drivers.base.Arm``: all at once first, then each motor by itself."""
        if self._transport is None or self._poll is None:
            return [f"{self.name}: not connected, so its torque could not be switched off"]
        failures = []
        shadows = list(self._layout.shadows.values())
        singles = [("single", motor) for motor in (*self._layout.motors, *shadows)]
        for target in (ALL, *singles):
            try:
                self._sdk.torque(target, False)  # type: ignore[arg-type]
            except DeviceError as error:
                failures.append(f"{self.name}: {error}")
                if isinstance(error, DeviceLostError) or self._is_silent:
                    break
        self._poll.forget_torque()
        self._torqued = dict.fromkeys(self._layout.motors, False)
        try:
            self._present()
            on = [motor for motor, torque in self._read_torque().items() if torque]
            failures += [f"{self.name}: {motor} still has torque" for motor in on]
        except DeviceError as error:
            failures.append(str(error))
        return failures

    def reboot_failed(self) -> list[str]:
        """See ``drivers.base.Arm``."""
        self._present()
        assert self._poll is not None
        errors = self._named(lambda: self._read("Hardware_Error_Status"))
        failed = [motor for motor, bits in errors.items() if bits]
        shadows = [m for m in self._layout.shadows.values() if m in self._poll.errors]
        if failed:
            self._named(lambda: self._sdk.reboot(ALL))
        for shadow in shadows:
            self._named(lambda motor=shadow: self._sdk.reboot(("single", motor)))  # type: ignore[misc]
        self._named(lambda: self._read("Hardware_Error_Status"))  # All answer again.
        for motor in (*failed, *shadows):
            self._poll.errors.pop(motor, None)
        self._poll.forget_torque()
        self._torqued = self._read_torque()
        self._wait_newer()
        return [*failed, *shadows]

    # Details.

    def _present(self) -> XsTransport:
        """The transport.

        Raises:
            DeviceLostError: it is not connected, something of it has gone, or it is silent.
        """
        transport = self._transport
        if transport is None:
            raise DeviceLostError(f"{self.name}: not connected")
        if words := transport.lost():
            raise self._lost(words)
        if (age_s := self._age_s(self._states(transport))) > self._lost_after_s:
            raise self._lost(f"no {STATES} for {age_s:.1f} s")
        return transport

    @property
    def _is_silent(self) -> bool:
        """Whether the node has stopped publishing; it then answers nothing either."""
        transport = self._transport
        return transport is None or self._age_s(self._states(transport)) > self._lost_after_s

    def _lost(self, words: str) -> DeviceLostError:
        return DeviceLostError(
            f"{self.name}: the node of /{self._arm.robot} has gone ({words}); see its terminal "
            "and start it again; its start switches torque off, so support the arm"
        )

    def _named(self, work: Callable[[], T]) -> T:
        """Do it, and put the arm's name before what goes wrong."""
        try:
            return work()
        except DeviceLostError as error:
            raise self._lost(str(error)) from error
        except DeviceError as error:
            raise DeviceError(f"{self.name}: {error}") from error

    def _read(self, register: str) -> dict[str, int]:
        return setup.read_all(self._sdk, self._layout, register)

    def _find_torque(self) -> dict[str, bool]:
        return {motor: bool(on) for motor, on in self._read("Torque_Enable").items()}

    def _read_torque(self) -> dict[str, bool]:
        return self._named(self._find_torque)

    @property
    def _expected_torque(self) -> dict[str, bool]:
        shadows = {s: self._torqued[joint] for joint, s in self._layout.shadows.items()}
        return self._torqued | shadows

    def _switch(self, motors: list[str], on: bool) -> None:
        """Switch torque, by the group where all its joints are meant.

        Each motor takes the node 10 ms, during which it reads nothing.
        """
        joints = self._layout.motors[: self._count]
        left = list(motors)
        if set(joints) <= set(left):
            self._sdk.torque(("group", self._layout.group), on)
            left = [motor for motor in left if motor not in joints]
        for motor in left:
            self._sdk.torque(("single", motor), on)

    def _hold(self, motors: list[str]) -> None:
        """Make the present position the goal, in a way that comes before any torque."""
        setup.configure_volatile(self._sdk, self._layout, self._model, motors)
        present = self._read("Present_Position")
        ranges = zip(self._layout.motors, self._units.ranges, strict=True)
        goals = {
            motor: min(max(present[motor], low), high)
            for motor, (low, high) in ranges
            if motor in motors
        }

        def differing() -> list[str]:
            found = self._read("Goal_Position")
            return [motor for motor, goal in goals.items() if found[motor] != goal]

        setup.write_and_check(self._sdk, "Goal_Position", goals, differing)

    def _first_states(self, transport: XsTransport) -> JointStates:
        deadline_s = time.monotonic() + FIRST_STATE_S
        while time.monotonic() < deadline_s:
            if (states := transport.newest()) is not None:
                return states
            time.sleep(WAIT_S)
        reason = f" ({words})" if (words := transport.lost()) else ""
        raise DeviceError(
            f"/{self._arm.robot}/{STATES} is offered, but nothing came in {FIRST_STATE_S:g} s"
            f"{reason}; see whether the node runs and has publish_states: true"
        )

    def _wait_newer(self) -> None:
        """After a service, which the node's reading had to wait for: wait until it reads again."""
        transport = self._transport
        assert transport is not None
        since_ns = self._clock.now_ns()
        limit_ns = since_ns + ns_from_s(self._lost_after_s)
        while not transport.lost() and self._clock.now_ns() < limit_ns:
            if self._states(transport).stamp_ns > since_ns:
                return
            time.sleep(WAIT_S)

    def _states(self, transport: XsTransport) -> JointStates:
        states = transport.newest()
        assert states is not None  # connect() waits for the first
        return states

    def _age_s(self, states: JointStates) -> float:
        return (self._clock.now_ns() - states.stamp_ns) / 1e9


def transport_of(name: str, arm: rig_interbotix.InterbotixArm, clock: Clock) -> XsTransport:
    """The transport that the rig description asks for, not yet open.

    Raises:
        MissingExtraError: the package of this transport is not installed.
    """
    if arm.ros == 1:
        from drivers.interbotix.ros1 import Ros1Transport

        return Ros1Transport(name, arm, clock)
    if arm.ros == 2:
        from drivers.interbotix.ros2 import Ros2Transport

        return Ros2Transport(name, arm, clock)
    from drivers.interbotix.rosbridge import RosbridgeTransport

    return RosbridgeTransport(name, arm, clock)
