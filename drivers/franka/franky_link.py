"""The Franka link over ``franky-control``, with its hand and its Desk: FR3, server version 10.

franky runs the 1 kHz loop in C++ and hands every state of it to a callback on a thread of its
own, none left out. Its constructor raises the calling thread to real-time priority where that
is permitted, and its destructor waits for its threads: both belong on a thread of ours.
"""

from __future__ import annotations

import contextlib
import http.client
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np

from drivers.franka.link import DeskState, Gains, HandState, JointRanges, Settings, Status
from drivers.franka.trace import TraceRing
from drivers.franka.words import connect_failure, flags_in, lost, motion_end, refusal
from teleop.clock import Clock
from teleop.errors import DeviceError, DeviceLostError, MissingExtraError
from teleop.messages import FloatArray

try:
    import franky
    from websockets.exceptions import WebSocketException
except ImportError as error:
    raise MissingExtraError("franky-control", "franka", "a Franka arm") from error

MODES = {
    "Other": "other",
    "Idle": "idle",
    "Move": "move",
    "Guiding": "guiding",
    "Reflex": "reflex",
    "UserStopped": "user_stopped",
    "AutomaticErrorRecovery": "automatic_error_recovery",
}
STOP_S = 3.0
"""The stop motion ends after 2 s at the latest, however hard somebody pushes."""
HAND_STOP_S = 1.0
HAND_END_S = 2.0
"""Motions of the hand take a second."""
STUCK: list[object] = []
"""Hands that were lost while they moved: to destroy one then ends the process."""
DESK_S = 5.0
DESK_FAILURES = (
    *(OSError, http.client.HTTPException, WebSocketException),
    *(franky.DeskError, ValueError),
)
"""What a session with Desk raises when it breaks; ValueError for what is no button event."""
NOT_FOUND = 404
FAILURES = (franky.Exception, RuntimeError)
"""What franky raises; RuntimeError for what libfranka does not translate (a closed socket)."""
JOINT_ENDS = tuple(f"joint{i}" for i in range(1, 8))
LIMIT_KEYS = ("lower", "upper", "velocity")


class FrankyLink:
    """See ``drivers.franka.link.FrankaLink``.

    Args:
        name: The arm's name in the rig.
        address: Host of the control box.
        ring: Where states go.
        clock: Stamps their arrival.
    """

    def __init__(self, name: str, address: str, ring: TraceRing, clock: Clock) -> None:
        self._name = name
        self._address = address
        self._ring = ring
        self._clock = clock
        self._robot: Any = None
        self._motion: Any = None
        self._state: Any = None
        self._walls: dict[str, Any] = {}
        self._controls = False  # Begun by us, its end not yet noticed.

    def connect(self) -> None:
        """See ``FrankaLink``."""
        ignore = franky.RealtimeConfig.Ignore  # Enforce refuses kernels it does not know.
        try:
            self._robot = franky.Robot(self._address, realtime_config=ignore)
        except FAILURES as error:
            outcome = connect_failure(self._name, self._address, str(error))
            raise DeviceError(outcome.words) from None

    def ranges(self) -> JointRanges:
        """See ``FrankaLink``; from the model that the robot sends."""
        root = ElementTree.fromstring(self._robot.model_urdf)
        limits = [
            joint.find("limit")
            for joint in root.iter("joint")
            if joint.get("type") == "revolute" and str(joint.get("name")).endswith(JOINT_ENDS)
        ]
        told = [limit.attrib for limit in limits if limit is not None][:7]
        return JointRanges(*(np.array([float(t[k]) for t in told]) for k in LIMIT_KEYS))

    def configure(self, settings: Settings) -> None:
        """See ``FrankaLink``."""
        wall, load = settings.wall, settings.load
        if wall is not None:
            self._walls = {
                "lower_joint_limits": settings.wall_min_rad,
                "upper_joint_limits": settings.wall_max_rad,
                "joint_limit_activation_distance": wall.margin_rad,
                "joint_limit_stiffness": wall.stiffness_nm,
                "joint_limit_damping": wall.damping_nms_rad,
                "joint_limit_max_torque": wall.max_torque_nm,
            }
        try:
            self._robot.set_collision_behavior(
                settings.collision_torque_nm, settings.collision_force_n
            )
            if load is not None:
                self._robot.set_load(load.mass_kg, load.com_m, load.inertia_kgm2)
        except FAILURES as error:
            raise self._error(error) from None

    def start(self, position_rad: FloatArray, gains: Gains) -> None:
        """See ``FrankaLink``."""
        motion = franky.JointImpedanceTrackingMotion(
            stiffness=gains.stiffness_nm_rad, damping=gains.damping_nms_rad, **self._walls
        )
        motion.set_reference(franky.JointReference(q=position_rad))
        self._move(motion)
        self._motion, self._controls = motion, True

    def aim(self, position_rad: FloatArray, velocity_rad_s: FloatArray) -> None:
        """See ``FrankaLink``."""
        self._motion.set_reference(franky.JointReference(q=position_rad, dq=velocity_rad_s))

    def set_gains(self, gains: Gains) -> None:
        """See ``FrankaLink``."""
        self._motion.set_gains(franky.JointImpedanceGains(*gains))

    def soft_stop(self) -> None:
        """See ``FrankaLink``."""
        self._controls = False
        if not self.in_control:
            return
        self._move(franky.TorqueStopMotion())
        try:
            if not self._robot.join_motion(STOP_S):
                raise DeviceError(f"{self._name}: the arm did not come to rest in {STOP_S:g} s")
        except FAILURES as error:
            raise self._error(error) from None

    @property
    def in_control(self) -> bool:
        """See ``FrankaLink``."""
        return bool(self._robot.is_in_control)

    def end_of_control(self) -> str:
        """See ``FrankaLink``."""
        self._controls = False
        try:
            self._robot.poll_motion()
        except FAILURES as error:
            return str(error)
        return ""

    def refresh(self) -> None:
        """See ``FrankaLink``."""
        if self._controls or self.in_control:
            return  # The callback takes them, or what ended control is to be asked first.
        try:
            self._keep(self._robot.state, in_control=False)
        except FAILURES as error:
            raise self._error(error) from None

    def status(self) -> Status:
        """See ``FrankaLink``."""
        state = self._state
        mode, flags = MODES[state.robot_mode.name], flags_in(str(state.current_errors))
        return Status(mode, flags, float(state.control_command_success_rate))

    def recover(self) -> None:
        """See ``FrankaLink``."""
        try:
            self._robot.recover_from_errors()
        except FAILURES as error:
            raise self._error(error) from None

    def open_hand(self) -> FrankyHand:
        """See ``FrankaLink``."""
        return FrankyHand(self._name, self._address)

    def release(self) -> None:
        """See ``FrankaLink``. Takes up to a second when the connection is broken."""
        self._motion = None
        self._robot = None

    def _move(self, motion: Any) -> None:
        motion.register_callback(self._take)
        try:
            self._robot.move(motion, asynchronous=True)
        except FAILURES as error:
            raise self._error(error) from None

    def _take(self, state: Any, *_rest: object) -> None:
        # Called for each millisecond of control; what takes longer here piles up.
        self._keep(state, in_control=True)

    def _keep(self, state: Any, in_control: bool) -> None:
        values = (state.q, state.dq, state.tau_J, state.tau_ext_hat_filtered)
        self._ring.put(state.time.to_msec(), self._clock.now_ns(), values, in_control)
        self._state = state

    def _error(self, error: Exception) -> DeviceError:
        text = str(error)
        if isinstance(error, franky.NetworkException) or not isinstance(error, franky.Exception):
            return DeviceLostError(lost(self._name, text).words)
        if isinstance(error, franky.CommandException) and "current mode" in text:
            status = self.status()
            return DeviceError(refusal(self._name, status.mode, status.flags).words)
        return DeviceError(motion_end(self._name, text).words)


class FrankyHand:
    """See ``drivers.franka.link.Hand``."""

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        try:
            self._hand = franky.Gripper(address)
        except FAILURES as error:
            text = connect_failure(f"{name}'s hand", address, str(error)).words
            raise DeviceError(f"{text}; an arm without a hand has gripper: null") from None
        self._pending: Any = None

    def read(self) -> HandState:
        """See ``Hand``."""
        try:
            state = self._hand.state
        except FAILURES as error:
            raise DeviceLostError(lost(f"{self._name}'s hand", str(error)).words) from None
        return HandState(state.width, state.is_grasped, float(state.temperature))

    def begin_open(self, width_m: float, speed_m_s: float) -> None:
        """See ``Hand``."""
        self._pending = self._hand.move_async(width_m, speed_m_s)

    def begin_close(self, max_width_m: float, speed_m_s: float, force_n: float) -> None:
        """See ``Hand``. Asked for width 0 and content with any: it holds what it meets."""
        self._pending = self._hand.grasp_async(0.0, speed_m_s, force_n, max_width_m, max_width_m)

    def is_done(self) -> bool:
        """See ``Hand``."""
        return self._pending is None or self._pending.wait(0.0)

    def stop(self) -> None:
        """See ``Hand``."""
        if self._pending is None:
            return
        try:
            self._hand.stop()
        except FAILURES as error:
            raise DeviceLostError(lost(f"{self._name}'s hand", str(error)).words) from None
        if self._pending.wait(HAND_STOP_S):
            self._pending = None

    def release(self) -> None:
        """See ``Hand``."""
        if self._pending is not None and not self._pending.wait(HAND_END_S):
            STUCK.append((self._hand, self._pending))


class DeskButtons:
    """A session with Desk that tells the buttons on the robot's wrist.

    Args:
        name: The input's name in the rig.
        address: Host of the control box, with a port if that is not 443.
        username: Of Desk.
        password: Of Desk.

    Raises:
        DeviceError: Desk cannot be reached, or refuses the login.
    """

    def __init__(self, name: str, address: str, username: str, password: str) -> None:
        self._name = name
        self._address = address
        self._desk = franky.Desk(address, username, password)
        try:
            self._open()
        except franky.FrankaAPIError as error:
            if error.http_code != NOT_FOUND:
                raise self._refused(error) from None
            # Systems before 5 have no v1 interface.
            self._desk = franky.DeskWebSession(address, username, password)
            try:
                self._open()
            except franky.FrankaAPIError as late:
                raise self._refused(late) from None

    def _open(self) -> None:
        try:
            self._desk.open(timeout=DESK_S)
            self._desk.poll_buttons(0.0)
        except franky.FrankaAPIError:
            raise
        except DESK_FAILURES as error:
            raise DeviceLostError(
                f"{self._name}: Desk at {self._address} does not answer ({error}); check the "
                "address and the cable, and open Desk in a browser to see whether it runs"
            ) from None

    def poll(self, timeout_s: float) -> list[tuple[str, bool]]:
        """Buttons that changed, each with whether it is pressed now.

        Raises:
            DeviceLostError: the session ended.
        """
        try:
            return [(e.button.value, e.pressed) for e in self._desk.poll_buttons(timeout_s)]
        except DESK_FAILURES as error:
            raise DeviceLostError(
                f"{self._name}: lost Desk at {self._address} ({error}); it is looked for again"
            ) from None

    def state(self) -> DeskState:
        """Whether it would let a program control the robot now; only read.

        Raises:
            DeviceLostError: the session ended, or the answer is not as expected.
        """
        desk = self._desk
        try:
            return DeskState(
                desk.brake_state is franky.BrakeState.UNLOCKED,
                desk.operating_mode.value,
                desk.get_fci_status() if isinstance(desk, franky.Desk) else "",
            )
        except (*DESK_FAILURES, KeyError, TypeError) as error:
            raise DeviceLostError(
                f"{self._name}: Desk at {self._address} does not tell its state ({error}); open "
                "it in a browser"
            ) from None

    def close(self) -> None:
        """End the session. Never raises."""
        with contextlib.suppress(RuntimeError, *DESK_FAILURES):
            self._desk.close()

    def _refused(self, error: Any) -> DeviceError:
        advice = "check username and password_file" if error.http_code in (401, 403) else "see Desk"
        return DeviceError(
            f"{self._name}: Desk at {self._address} answered {error.http_code}; {advice}"
        )
