"""The doctor's look at a Franka: its port, version, states, mode, pose, hand, and the way there.

The robot is only read: no control is begun, no setting is made, no error is cleared.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drivers.base import ArmReading, TraceSample
from drivers.doctor.checks import Check, failed, told
from drivers.doctor.network import reason_of
from drivers.doctor.poses import pose_check
from drivers.franka.gripper import FrankaHand
from drivers.franka.hangup import FCI_PORT
from drivers.franka.link import FrankaLink, Status
from drivers.franka.session import FrankaSession
from drivers.franka.trace import TraceRing
from drivers.franka.words import SYSTEMS, connect_failure, refusal, silent
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import DeviceError, TandemError
from teleop.rig import Rig
from teleop.rig_franka import FrankaArm, FrankaArmModel

HEADER = struct.Struct("<III")
"""Command, number of the request, size with this header (libfranka, research_interface)."""
CONNECT = struct.Struct("<HH")
"""The library's version, and the UDP port for states."""
NO_VERSION = 0xFFFF
"""A version that no robot has: it answers with its own, and opens nothing."""
ANSWER_S = 3.0
ROBOT_OF = {"Panda": "panda", "FR3": "fr3"}
WATCH_S = 1.0
ARRIVING_SHARE = 0.9
"""Share of the robot's states that should reach us; a busy machine misses some while it reads."""
FAR_S = 0.01
"""A control box at the end of a cable answers in a fraction of a millisecond."""
LOW_SUCCESS_RATE = 0.95


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a control box said first."""

    version: int
    seconds: float
    """From asking to the answer."""


def franka_checks(name: str, rig: Rig, clock: Clock, net: Path = Path("/")) -> Iterator[Check]:
    """One arm, from its network port to its hand.

    Args:
        name: The arm's name in the rig.
        rig: The rig.
        clock: Times the answers.
        net: Root of the files in which the kernel shows its network.
    """
    arm, model = rig.arms[name], rig.arm_model(name)
    assert isinstance(arm, FrankaArm)
    assert isinstance(model, FrankaArmModel)
    yield from card_checks(name, arm.address, net)
    try:
        greeting = greet(name, arm.address, clock)
    except DeviceError as error:
        yield failed(name, error)
        return
    version = version_check(name, model.robot, greeting)
    yield version
    if version.status != "fail":
        yield from _robot_checks(name, rig, arm, model, clock)


def greet(name: str, address: str, clock: Clock) -> Greeting:
    """Ask a control box for its version, without opening a session.

    Raises:
        DeviceError: nobody is there, or it does not answer as one.
    """
    try:
        link = socket.create_connection((address, FCI_PORT), ANSWER_S)
    except OSError as error:
        reason = reason_of(error)
        text = "connection refused" if reason == "refused" else f"unreachable ({reason})"
        raise DeviceError(connect_failure(name, address, text).words) from None
    try:
        with link:
            start_ns = clock.now_ns()
            link.sendall(
                HEADER.pack(0, 0, HEADER.size + CONNECT.size) + CONNECT.pack(NO_VERSION, 0)
            )
            answer = _exactly(link, HEADER.size + 3)
            seconds = (clock.now_ns() - start_ns) / NS_PER_S
            link.shutdown(socket.SHUT_WR)
            while link.recv(256):  # until it has closed: it takes one client only
                pass
    except TimeoutError:
        raise DeviceError(silent(name, address, ANSWER_S).words) from None
    except OSError as error:
        words = error.strerror or str(error)
        raise DeviceError(
            f"{name}: {address} closes FCI connections at once ({words}); another program has the "
            "robot: end it (a running session, ROS, a Desk task)"
        ) from None
    if HEADER.unpack_from(answer) != (0, 0, len(answer)):
        raise DeviceError(
            f"{name}: something else than a Franka answers at port {FCI_PORT} of {address}; "
            "correct the arm's address"
        )
    return Greeting(int.from_bytes(answer[-2:], "little"), seconds)


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise ConnectionResetError("it said nothing")
        data += more
    return data


def version_check(name: str, robot: str, greeting: Greeting) -> Check:
    """Whether the control box is of the robot that the rig file names; the wheel's comes later."""
    thing, version = f"{name} port", greeting.version
    system, kind, library = SYSTEMS.get(version, ("not known here", "", "not known here"))
    seen = (
        f"{FCI_PORT} is open, FCI is active, server version {version} (system {system}, libfranka "
        f"{library}), answered in {greeting.seconds * 1e3:.1f} ms"
    )
    if kind and ROBOT_OF[kind] != robot:
        remedy = f"set robot: {ROBOT_OF[kind]} in this arm's model"
        return Check("fail", thing, f"{seen}, which is of a {kind}, not of the {robot}", remedy)
    if greeting.seconds > FAR_S:
        return Check("warn", thing, seen, "use a cable straight from a network card to the box")
    return Check("ok", thing, seen)


# -- over the vendor's package --------------------------------------------------------------


def _robot_checks(
    name: str, rig: Rig, arm: FrankaArm, model: FrankaArmModel, clock: Clock
) -> Iterator[Check]:
    ring = TraceRing()
    try:
        link = _link(name, arm, model, ring, clock)
        session = FrankaSession(name, arm.address, link, lambda _: None)
    except TandemError as error:  # the vendor's package is not there
        yield failed(name, error)
        return
    try:
        session.open()
        session.ask(lambda link: link.refresh())
        ring.take()
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(WATCH_S))
        states = ring.take()
        yield states_check(name, states)
        yield mode_check(name, session.ask(lambda link: link.status()))
        if states:
            yield pose_check(name, _reading(states[-1]), rig)
        if model.gripper is not None:
            yield from _hand_checks(name, arm, model, link)
    except TandemError as error:
        yield failed(name, error)
    finally:
        session.close()


def _link(
    name: str, arm: FrankaArm, model: FrankaArmModel, ring: TraceRing, clock: Clock
) -> FrankaLink:
    if model.robot == "panda":
        from drivers.franka.panda_link import PandaLink

        return PandaLink(name, arm.address, ring, clock)
    from drivers.franka.franky_link import FrankyLink

    return FrankyLink(name, arm.address, ring, clock)


def _reading(sample: TraceSample) -> ArmReading:
    return ArmReading(
        sample.stamp_ns,
        sample.position_rad,
        sample.velocity_rad_s,
        sample.torque_nm,
        None,
        None,
        None,
    )


def states_check(name: str, states: list[TraceSample]) -> Check:
    """Whether the robot's states come, and whether the network swallows some."""
    thing = f"{name} states"
    if len(states) < 2:
        remedy = "open the firewall for UDP from it, use the LAN port of the control box"
        return Check("fail", thing, f"none came in {WATCH_S:g} s", remedy)
    sent = states[-1].robot_ms - states[0].robot_ms + 1
    seen = f"{len(states)} of {sent} came while this program watched"
    if len(states) < ARRIVING_SHARE * sent:
        remedy = "use a network card of its own, a cable without switch, and keep the machine idle"
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, seen)


def mode_check(name: str, status: Status) -> Check:
    """Whether the robot would take commands now."""
    if status.mode == "idle":
        return Check("ok", name, "FCI connects with the installed package, mode idle")
    if status.mode == "move":
        rate = status.success_rate
        seen = f"another program moves it, {rate:.0%} of its commands arrive in time"
        trouble = "end that program first"
        if 0 < rate < LOW_SUCCESS_RATE:
            trouble += "; the robot stops after 20 missed in a row, see its network card"
        return Check("warn", name, seen, trouble)
    words = refusal(name, status.mode, status.flags).words.removeprefix(f"{name}: ")
    if status.mode == "reflex":
        seen = words.replace("; ", ", ")
        remedy = "free the arm, then clear it in the session by emergency stop, clear and confirm"
        return Check("fail", name, seen, remedy)
    seen, _, remedy = words.partition("; " if "; " in words else ": ")
    return Check("fail", name, seen, remedy)


def _hand_checks(
    name: str, arm: FrankaArm, model: FrankaArmModel, link: FrankaLink
) -> Iterator[Check]:
    assert model.gripper is not None
    thing = f"{name} hand"
    hand = FrankaHand(name, arm.address, model.gripper, link.open_hand)
    try:
        hand.open()
        state = hand.state
        if state is None:
            yield Check("fail", thing, hand.trouble or "no state came", "restart it in Desk")
        else:
            holds = ", holds something" if state.grasped else ""
            seen = f"{state.width_m * 1e3:.0f} mm open, {state.temperature_c:.0f} C{holds}"
            yield Check("ok", thing, seen)
    except DeviceError as error:
        yield told("fail", thing, str(error))
    finally:
        hand.close()


# -- the way to it --------------------------------------------------------------------------


def card_checks(name: str, address: str, root: Path = Path("/")) -> Iterator[Check]:
    """Which network card leads to the robot, and what else does; nothing for an emulated one."""
    try:
        host = socket.gethostbyname(address)
    except OSError as error:
        seen = f"{address} is no known host ({error.strerror})"
        yield Check("fail", f"{name} network", seen, "give its address in numbers")
        return
    if host.startswith("127."):
        return
    routes = _routes(root / "proc/net/route")
    card = _card_to(host, routes)
    thing = f"{name} network"
    if not card:
        yield Check("fail", thing, f"no card leads to {host}", "give the card an address beside it")
    elif (root / "sys/class/net" / card / "wireless").exists():
        yield Check("fail", thing, f"{card} is wireless", "use a cable; FCI wants 1 ms")
    elif any(mask == 0 and other == card for other, _, mask in routes):
        seen = f"{card} also carries everything else"
        yield Check("warn", thing, seen, "give the robot a network card of its own")
    else:
        yield Check("ok", thing, f"{card} leads to {host} and nowhere else")


def _routes(file: Path) -> list[tuple[str, int, int]]:
    """Card, network and mask of each route, in the kernel's own byte order."""
    if not file.exists():
        return []
    rows = [line.split() for line in file.read_text().splitlines()[1:]]
    return [(row[0], int(row[1], 16), int(row[7], 16)) for row in rows]


def _card_to(host: str, routes: list[tuple[str, int, int]]) -> str:
    number = int.from_bytes(socket.inet_aton(host), "little")
    fitting = [
        (mask.bit_count(), card) for card, network, mask in routes if number & mask == network
    ]
    return max(fitting)[1] if fitting else ""
