"""What a Franka reports, in words: a name for each outcome, what was seen, what to do.

Everything here works on the text that libfranka gives and on the names of its modes and error
flags, which are the same under every Python wheel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SYSTEMS = {
    3: ("3.0 or newer", "Panda", "0.7"),
    4: ("4.0 or newer", "Panda", "0.8"),
    5: ("4.2.1 or newer", "Panda", "0.9"),
    6: ("5.2 or newer", "FR3", "0.10 to 0.12"),
    7: ("5.5 or newer", "FR3", "0.13"),
    8: ("5.7.0 or newer", "FR3", "0.14"),
    9: ("5.7.2 or newer", "FR3", "0.15 to 0.17"),
    10: ("5.9 or newer", "FR3", "0.18 to 0.21"),
}
"""System version, robot and libfranka of each server version, which must match exactly
(https://frankarobotics.github.io/docs/compatibility.html)."""

FRANKY_WHEELS = "https://timschneider42.github.io/franky/whl/by-robot-server-version"
"""franky's wheels by server version, as its README names them."""

PANDA_WHEELS = "https://github.com/JeanElsner/panda-py#libfranka-version"
"""panda-python's wheels by server version, as its README names them."""

CONTACT = (
    "the arm met something, or a hand pushed harder than the collision threshold; free the arm"
)
NETWORK = (
    "the robot missed 20 commands in a row; use a network card of its own, real-time priority and "
    "the performance CPU governor, and keep the machine idle"
)
LIMITS = "a joint left its range; press the user stop, guide it back by hand"
SPEED = "a joint moved too fast; lower max_velocity_rad_s"
JUMP = "commands jumped; lower max_acceleration_rad_s2 and check the commander"
POWER = "the motion asked for too much power; move slower, check the load set in Desk"

REFLEXES = {
    "joint_reflex": CONTACT,
    "cartesian_reflex": CONTACT,
    "self_collision_avoidance_violation": "the arm came too close to itself; guide it apart",
    "communication_constraints_violation": NETWORK,
    "joint_position_limits_violation": LIMITS,
    "cartesian_position_limits_violation": "the tool left the space set in Desk; guide it back",
    "joint_velocity_violation": SPEED,
    "cartesian_velocity_violation": SPEED,
    "power_limit_violation": POWER,
    "tau_j_range_violation": "a joint's torque left its range; check the load, move slower",
    "controller_torque_discontinuity": JUMP,
    "joint_motion_generator_velocity_discontinuity": JUMP,
    "joint_motion_generator_acceleration_discontinuity": JUMP,
    "instability_detected": "the controller began to swing; lower joint_stiffness_nm_rad",
}
"""Cause and remedy of the reflexes that a rig meets."""

MODES = {
    "other": "not ready: unlock the brakes and activate FCI in Desk",
    "guiding": "guided by its own buttons; release them",
    "reflex": "in reflex",
    "user_stopped": "stopped by the user stop: release it",
    "automatic_error_recovery": "recovering from an error; wait",
}
"""Modes in which a robot takes no commands, by our names."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How something ended."""

    name: str
    """``reflex``, ``user_stop``, ``lost``, ``refused``, ``version``, ``silent``, ``firewall``,
    ``host``, ``realtime``, ``too_fast``, ``ended`` or ``failed``."""
    words: str

    @property
    def is_loss(self) -> bool:
        """Whether the connection is gone with it."""
        return self.name in ("lost", "refused", "silent", "firewall", "host")


def flags_in(text: str) -> tuple[str, ...]:
    """The error flags in a text such as ``... reflex! ["joint_reflex"]``."""
    found = re.search(r"\[([^\]]*)\]", text)
    return () if found is None else tuple(re.findall(r"\w+", found[1]))


def reflex(name: str, flags: tuple[str, ...]) -> Outcome:
    """The robot stopped by itself, with these error flags."""
    why = [f"{flag} ({REFLEXES[flag]})" if flag in REFLEXES else flag for flag in flags]
    return Outcome("reflex", f"{name}: the robot stopped by reflex: {'; '.join(why) or 'no flag'}")


def user_stop(name: str) -> Outcome:
    """Somebody pressed the user stop, or opened the enabling device."""
    return Outcome("user_stop", f"{name}: the user stop is pressed; look, then release it")


def too_fast(name: str, joint: str, velocity_rad_s: float, cap_rad_s: float) -> Outcome:
    """A guided joint went beyond the speed cap."""
    return Outcome(
        "too_fast",
        f"{name}: {joint} was guided at {velocity_rad_s:.2f} rad/s, over "
        f"guiding_max_velocity_rad_s {cap_rad_s:g}, and stopped gently; clear it, then guide "
        "more slowly",
    )


def silent(name: str, address: str, seconds: float) -> Outcome:
    """Something accepted the connection and never answered."""
    return Outcome(
        "silent",
        f"{name}: {address} accepted the connection and has not answered for {seconds:g} s; "
        "is this the control box? restart it if Desk does not answer either",
    )


def version_mismatch(name: str, server: int, library: int) -> Outcome:
    """Robot and wheel speak different versions of the protocol."""
    row = SYSTEMS.get(server)
    if row is None:
        system, wheel = "of a system not known here", f"a wheel for server version {server}"
    elif row[1] == "Panda":
        system = f"of a Panda with system {row[0]} (libfranka {row[2]})"
        wheel = (
            "robot: panda in the arm's model and panda-python>=1.1"
            if server == 5
            else f"the panda-python zip for libfranka {row[2]} from {PANDA_WHEELS}"
        )
    else:
        system = f"of an FR3 with system {row[0]} (libfranka {row[2]})"
        wheel = f"pip install --pre franky-control --extra-index-url {FRANKY_WHEELS}/{server}/"
    return Outcome(
        "version",
        f"{name}: the robot speaks server version {server}, that {system}, and the installed "
        f"wheel speaks {library}; use {wheel}",
    )


def connect_failure(name: str, address: str, text: str) -> Outcome:
    """Why a connection could not be made, from the exception's text."""
    versions = re.search(r"server version:? (\d+),? library version:? (\d+)", text) or re.search(
        r"protocol version (\d+).*version (\d+)", text
    )
    if versions is not None:
        return version_mismatch(name, int(versions[1]), int(versions[2]))
    where = f"{name}: {address}"
    if "refused" in text.lower():
        return Outcome(
            "refused", f"{where} refuses FCI; unlock the brakes and activate FCI in Desk"
        )
    if "UDP" in text and "imeout" in text:
        return Outcome(
            "firewall",
            f"{where} answers but its states do not arrive; open the firewall for UDP from it, use "
            "the LAN port of the control box (not the arm's), check that FCI is licensed",
        )
    if "not found" in text or "unreachable" in text or "No route" in text or "imeout" in text:
        return Outcome("host", f"{where} cannot be reached; check its address, cable and subnet")
    if "ealtime" in text or "real-time" in text:
        return Outcome("realtime", f"{where}: {_one_line(text)}; allow real-time priority (rtprio)")
    if "interrupted" in text:
        return Outcome(
            "refused",
            f"{where} closes FCI connections at once; another program has the robot: end it (a "
            "running session, ROS, a Desk task)",
        )
    return Outcome("failed", f"{where}: {_one_line(text)}")


def motion_end(name: str, text: str) -> Outcome:
    """Why control ended, from the exception's text."""
    if "User Stop" in text or "User stopped" in text or "emergency" in text.lower():
        return user_stop(name)
    if "reflex" in text.lower() or flags_in(text):
        return reflex(name, flags_in(text))
    if is_loss(text):
        return lost(name, text)
    return Outcome("ended", f"{name}: control ended: {_one_line(text)}")


def is_loss(text: str) -> bool:
    """Whether the connection went, by the exception's text."""
    signs = ("UDP", "TCP", "onnection", "roken pipe", "I/O error")
    return any(sign in text for sign in signs)


def lost(name: str, text: str) -> Outcome:
    """The connection went."""
    return Outcome(
        "lost",
        f"{name}: lost the connection ({_one_line(text)}); check the cable, the control box and "
        "whether Desk or another program took FCI",
    )


def refusal(name: str, mode: str, flags: tuple[str, ...]) -> Outcome:
    """Why a robot in this mode takes no commands."""
    if mode == "reflex":
        return reflex(name, flags)
    if mode == "user_stopped":
        return user_stop(name)
    return Outcome("refused", f"{name}: the robot is {MODES.get(mode, mode)}")


def _one_line(text: str) -> str:
    return " ".join(text.removeprefix("libfranka: ").split())
