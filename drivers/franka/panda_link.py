"""The Franka link over ``panda-python``: Panda (FER), server version 5.

Beside what ``drivers.franka.franky_link`` does there are limits of the package: it keeps a log of
the 1 kHz states that it does not write while it is read, so that about one state in a hundred is
missing (``missing_states`` counts them); its joint walls are its own; gains change at once. It
recovers from errors by itself when a controller is started, so none is started unless the robot
was seen idle just before.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from drivers.franka.franky_link import FrankyHand
from drivers.franka.link import Gains, Hand, JointRanges, Settings, Status
from drivers.franka.trace import TraceRing
from drivers.franka.words import (
    connect_failure,
    flags_in,
    is_loss,
    lost,
    motion_end,
    refusal,
)
from teleop.clock import Clock
from teleop.errors import DeviceError, DeviceLostError, MissingExtraError
from teleop.messages import FloatArray

try:
    import panda_py
    from panda_py import controllers, libfranka
except ImportError as error:
    raise MissingExtraError("panda-python", "franka", "a Panda arm") from error

MODES = {
    "kOther": "other",
    "kIdle": "idle",
    "kMove": "move",
    "kGuiding": "guiding",
    "kReflex": "reflex",
    "kUserStopped": "user_stopped",
    "kAutomaticErrorRecovery": "automatic_error_recovery",
}
LOG_STATES = 64
LOG_EVERY_MS = 16
"""The log is read when it is a quarter full."""
MAX_VELOCITY_RAD_S = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])
"""Of the Panda (https://frankarobotics.github.io/docs/control_parameters.html); the package does
not tell it."""
STOP_S = 2.0
STOP_DAMPING_NMS_RAD = np.array([30.0, 30.0, 30.0, 30.0, 10.0, 10.0, 5.0])
"""Brings a joint to rest within a few tenths of a second."""
REST_RAD_S = 0.02


class PandaLink:
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
        self._panda: Any = None
        self._controller: Any = None
        self._state: Any = None
        self._end = ""

    def connect(self) -> None:
        """See ``FrankaLink``."""
        try:
            self._panda = panda_py.Panda(
                self._address, self._name, libfranka.RealtimeConfig.kIgnore
            )
        except RuntimeError as error:
            outcome = connect_failure(self._name, self._address, str(error))
            raise DeviceError(outcome.words) from None
        self._panda.enable_logging(LOG_STATES)

    def ranges(self) -> JointRanges:
        """See ``FrankaLink``."""
        low, high = self._panda.get_joint_limits_lower(), self._panda.get_joint_limits_upper()
        return JointRanges(np.array(low), np.array(high), MAX_VELOCITY_RAD_S)

    def configure(self, settings: Settings) -> None:
        """See ``FrankaLink``; the walls are the package's own."""
        torques, forces = [settings.collision_torque_nm] * 7, [settings.collision_force_n] * 6
        load = settings.load
        try:
            robot = self._panda.get_robot()
            robot.set_collision_behavior(torques, torques, forces, forces)
            if load is not None:
                robot.set_load(load.mass_kg, load.com_m, load.inertia_kgm2)
        except RuntimeError as error:
            raise self._error(error) from None

    def start(self, position_rad: FloatArray, gains: Gains) -> None:
        """See ``FrankaLink``."""
        controller = controllers.JointPosition(*gains)
        try:
            self._panda.start_controller(controller)
            controller.set_control(position_rad)
        except RuntimeError as error:
            raise self._error(error) from None
        self._controller, self._end = controller, ""

    def aim(self, position_rad: FloatArray, velocity_rad_s: FloatArray) -> None:
        """See ``FrankaLink``."""
        self._controller.set_control(position_rad, velocity_rad_s)

    def set_gains(self, gains: Gains) -> None:
        """See ``FrankaLink``."""
        self._controller.set_stiffness(gains.stiffness_nm_rad)
        self._controller.set_damping(gains.damping_nms_rad)

    def soft_stop(self) -> None:
        """See ``FrankaLink``."""
        if not self.in_control:
            return
        self.set_gains(Gains(np.zeros(7), STOP_DAMPING_NMS_RAD))
        deadline_s = time.monotonic() + STOP_S
        while self.in_control and time.monotonic() < deadline_s:
            self.refresh()
            if np.abs(self._state.dq).max() < REST_RAD_S:
                break
            time.sleep(LOG_EVERY_MS / 1e3)
        self._stop()

    @property
    def in_control(self) -> bool:
        """See ``FrankaLink``."""
        if self._controller is None:
            return False
        try:
            self._panda.raise_error()
        except RuntimeError as error:
            self._end = str(error)
            if is_loss(self._end):
                # To stop what is lost would have the destructor end the whole process later.
                self._controller = None
            else:
                self._stop()  # Else it goes on saying that it moves, and shows old states.
        return self._controller is not None

    def end_of_control(self) -> str:
        """See ``FrankaLink``."""
        return self._end

    def refresh(self) -> None:
        """See ``FrankaLink``."""
        arrival_ns = self._clock.now_ns()
        controls = self.in_control
        try:
            self._state = state = self._panda.get_state()  # Without control, the next one.
        except RuntimeError as error:
            raise self._error(error) from None
        if controls:
            if state.time.to_msec() - self._ring.newest_ms >= LOG_EVERY_MS:
                self._take_log(arrival_ns)
            return
        values = [np.array(v) for v in (state.q, state.dq, state.tau_J, state.tau_ext_hat_filtered)]
        self._ring.put(state.time.to_msec(), self._clock.now_ns(), values, in_control=False)

    def status(self) -> Status:
        """See ``FrankaLink``."""
        state = self._state
        mode, flags = MODES[state.robot_mode.name], flags_in(repr(state.current_errors))
        return Status(mode, flags, float(state.control_command_success_rate))

    def recover(self) -> None:
        """See ``FrankaLink``."""
        try:
            self._panda.recover()
        except RuntimeError as error:
            raise self._error(error) from None

    def open_hand(self) -> Hand:
        """See ``FrankaLink``. By franky: this package stops every thread while it waits for a state
        of the hand, and both robots' hands speak the same protocol.
        """
        return FrankyHand(self._name, self._address)

    def release(self) -> None:
        """See ``FrankaLink``."""
        self._controller = None
        self._panda = None

    def _stop(self) -> None:
        self._controller = None
        try:
            self._panda.stop_controller()
        except RuntimeError as error:
            self._end = self._end or str(error)

    def _take_log(self, arrival_ns: int) -> None:
        told = self._panda.get_log()
        newest_ms = int(told["time"][-1][0])
        columns = (told["time"], told["q"], told["dq"], told["tau_J"], told["tau_ext_hat_filtered"])
        for (ms,), *values in zip(*columns, strict=True):
            if ms > self._ring.newest_ms:
                # They came one by one until now.
                came_ns = arrival_ns - (newest_ms - int(ms)) * 1_000_000
                self._ring.put(int(ms), came_ns, values, in_control=True)

    def _error(self, error: RuntimeError) -> DeviceError:
        text = str(error)
        outcome = motion_end(self._name, text)
        if outcome.is_loss or text == "Net Exception":
            return DeviceLostError(lost(self._name, text).words)
        if "current mode" in text:
            status = self.status()
            return DeviceError(refusal(self._name, status.mode, status.flags).words)
        return DeviceError(outcome.words)
