"""Motion of all servo-driven axes of a rig, vectorised.

Per axis: a trapezoidal motion profile makes a set point; the position loop, the supply
voltage and the current limit make a motor torque; gear friction takes its part; the rest
goes to the joint. The plant adds passive damping itself, so the bank gives back what both
count. All is joint side: rad, rad/s, N m. Nothing here knows of packets or registers.

The profile of a real servo (106 s of a WidowX 200, see ``bench/fidelity``) is the plain
trapezoid, replanned from the present set velocity at each new goal: with velocity register
131 the acceleration register comes out as 10, 3.7 rad/s^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drivers.emulated.dynamixel.motors import AxisSpec as AxisSpec
from drivers.emulated.dynamixel.motors import axes_of as axes_of
from teleop.messages import FloatArray

UNLIMITED = 1e9
"""Profile velocity or acceleration when the register is 0; finite, so that no NaN arises."""
VELOCITY_WINDOW_S = 0.09
"""Present velocity is the mean over this time. Identified: after the real joint stops, its
reading falls for 0.09 s and is then exactly 0."""
PRESLIDING_RAD = 0.002
"""Travel over which gear friction turns round, about one position tick as in the log."""


@dataclass(frozen=True, slots=True)
class Drive:
    """How an axis is driven, from the registers of its servos."""

    position_gain: float = 1.0
    """Of the position loop, as a part of the factory gain; 0 where the mode has no such loop."""
    push_nm: float = 0.0
    """Torque asked for directly (current and PWM modes)."""
    braking: bool = True
    """Whether back-EMF brakes: all modes but the current mode, which regulates it away."""
    torque_limit_nm: float = UNLIMITED
    """Of the current limit or goal current."""
    voltage_part: float = 1.0
    """Of the supply, by the goal PWM."""
    power: float = 1.0
    """Part of the axis' servos whose torque is on."""


class ServoBank:
    """The motion model of N axes; one instance serves all arms.

    Args:
        axes: what they are made of, in the order of all arrays.
        step_s: time step with which ``torque_nm`` will be called.
    """

    def __init__(self, axes: Sequence[AxisSpec], step_s: float = 0.002) -> None:
        self.axes = tuple(axes)
        count = len(self.axes)
        self._index = {(axis.arm, axis.name): i for i, axis in enumerate(self.axes)}
        self.angle_rad: FloatArray = np.zeros(count)
        """Joint angles as of the last step, (N,)."""
        self.motor_nm: FloatArray = np.zeros(count)
        """Motor torque of the last step, (N,): what the current shows."""
        self.set_rad: FloatArray = np.zeros(count)
        """Set point of the profile, (N,)."""
        self.set_rad_s: FloatArray = np.zeros(count)
        self.goal_rad: FloatArray = np.zeros(count)
        self._top_speed = np.full(count, UNLIMITED)
        self._acceleration = np.full(count, UNLIMITED)
        self._profiled = False
        self._gain, self._push, self._voltage, self._limit = (np.zeros(count) for _ in range(4))
        self._braking, self._passive, self._friction = (np.zeros(count) for _ in range(3))
        self._on = np.zeros(count, bool)
        self._bristle = np.zeros(count)
        rows = max(2, round(VELOCITY_WINDOW_S / step_s))
        self._history = np.zeros((rows, count))
        self._history_s = np.zeros(rows)
        self._row = 0
        self._time_s = 0.0
        self._filled = False
        self._a, self._b, self._torque = (np.zeros(count) for _ in range(3))

    def __len__(self) -> int:
        return len(self.axes)

    def index(self, arm: str, name: str) -> int:
        """Position of an axis in the arrays."""
        return self._index[arm, name]

    def torque_nm(self, dt_s: float, angle_rad: FloatArray, rate_rad_s: FloatArray) -> FloatArray:
        """Advance by one step.

        Args:
            dt_s: the step.
            angle_rad, rate_rad_s: (N,) the joints' state at its beginning.

        Returns:
            (N,) torque that the servos put on the joints; 0 where torque is off. The array is
            reused by the next call.
        """
        self._remember(dt_s, angle_rad)
        self._advance_set_point(dt_s)
        a, motor, torque = self._a, self.motor_nm, self._torque
        np.subtract(self.set_rad, angle_rad, out=motor)
        motor *= self._gain
        motor += self._push
        np.minimum(motor, self._voltage, out=motor)
        np.negative(self._voltage, out=a)
        np.maximum(motor, a, out=motor)
        np.multiply(self._braking, rate_rad_s, out=a)
        motor -= a
        np.minimum(motor, self._limit, out=motor)
        np.negative(self._limit, out=a)
        np.maximum(motor, a, out=motor)
        np.multiply(self._passive, rate_rad_s, out=torque)
        torque += motor
        torque -= self._gear_friction_nm(dt_s, rate_rad_s)
        return torque

    def _remember(self, dt_s: float, angle_rad: FloatArray) -> None:
        if not self._filled:  # the first step: the joints have always stood here
            self._history[:] = angle_rad
            self._history_s[:] = -VELOCITY_WINDOW_S
            self._filled = True
            self.set_rad[:] = self.goal_rad[:] = angle_rad
        self._time_s += dt_s
        self._row = (self._row + 1) % len(self._history_s)
        self._history[self._row] = angle_rad
        self._history_s[self._row] = self._time_s
        self.angle_rad[:] = angle_rad

    def _advance_set_point(self, dt_s: float) -> None:
        if not self._profiled:
            self.set_rad[:] = self.goal_rad
            return
        left, speed, far = self._a, self._b, self._torque
        np.subtract(self.goal_rad, self.set_rad, out=left)
        np.abs(left, out=far)
        np.multiply(far, self._acceleration, out=speed)
        speed *= 2.0
        np.sqrt(speed, out=speed)  # from which it can still stop at the goal
        np.minimum(speed, self._top_speed, out=speed)
        far /= dt_s
        np.minimum(speed, far, out=speed)
        np.copysign(speed, left, out=speed)
        speed -= self.set_rad_s
        np.multiply(self._acceleration, dt_s, out=far)
        np.minimum(speed, far, out=speed)
        np.negative(far, out=far)
        np.maximum(speed, far, out=speed)
        self.set_rad_s += speed
        np.multiply(self.set_rad_s, dt_s, out=left)
        self.set_rad += left

    def _gear_friction_nm(self, dt_s: float, rate_rad_s: FloatArray) -> FloatArray:
        """Dahl's friction: a bristle that bends over ``PRESLIDING_RAD`` and then slides.

        It keeps its bend at rest, which is the hysteresis of the real current.
        """
        bend, a = self._bristle, self._a
        np.multiply(rate_rad_s, dt_s / PRESLIDING_RAD, out=a)
        bend += a
        np.minimum(bend, 1.0, out=bend)
        np.maximum(bend, -1.0, out=bend)
        return np.multiply(bend, self._friction, out=a)

    # What the servo chains set.

    def drive(self, axis: int, drive: Drive) -> None:
        """Take over the state of an axis' servos; ``power`` 0 lets the joint go."""
        spec = self.axes[axis]
        self._gain[axis] = drive.power * drive.position_gain * spec.kp_nm_rad
        self._push[axis] = drive.power * drive.push_nm
        self._voltage[axis] = drive.power * drive.voltage_part * spec.voltage_nm
        self._limit[axis] = drive.power * min(spec.stall_nm, drive.torque_limit_nm)
        self._braking[axis] = drive.power * spec.damping_nms_rad if drive.braking else 0.0
        self._passive[axis] = min(spec.passive_nms_rad, self._braking[axis])
        self._friction[axis] = spec.friction_nm if drive.power else 0.0
        if drive.power and not self._on[axis]:
            self.hold(axis)
        self._on[axis] = drive.power > 0

    def goal(self, axis: int, angle_rad: float) -> None:
        """Set where the axis shall go."""
        self.goal_rad[axis] = angle_rad

    def profile(self, axis: int, velocity_rad_s: float, acceleration_rad_s2: float) -> None:
        """Set the motion profile; 0 is unlimited, and velocity 0 is no profile at all."""
        velocity = velocity_rad_s or UNLIMITED
        self._top_speed[axis] = velocity
        limited = velocity_rad_s and acceleration_rad_s2
        self._acceleration[axis] = acceleration_rad_s2 if limited else UNLIMITED
        self._profiled = bool((self._top_speed < UNLIMITED).any())
        if not self._profiled:
            self.set_rad_s[:] = 0.0

    def hold(self, axis: int) -> None:
        """Stop at the present angle."""
        self.goal_rad[axis] = self.set_rad[axis] = self.angle_rad[axis]
        self.set_rad_s[axis] = 0.0

    # What the servo chains read.

    def velocity_rad_s(self, axis: int) -> float:
        """The joint's measured velocity, as slow to follow as a servo's own reading."""
        oldest = (self._row + 1) % len(self._history_s)
        span_s = self._history_s.item(self._row) - self._history_s.item(oldest)
        if span_s <= 0:
            return 0.0
        moved = self._history.item(self._row, axis) - self._history.item(oldest, axis)
        return moved / span_s

    def current_a(self, axis: int) -> float:
        """Current of each of the axis' servos, A, positive along the joint's axis."""
        return self.motor_nm.item(axis) / self.axes[axis].kt_nm_a

    def load(self, axis: int) -> float:
        """Motor torque as a part of the stall torque, -1 ... 1."""
        return self.motor_nm.item(axis) / self.axes[axis].stall_nm
