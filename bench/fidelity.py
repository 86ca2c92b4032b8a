"""The emulated servo against a real one: a waist sweep of a WidowX 200, replayed.

    python bench/fidelity.py --log DIR_OR_CSV [--out PICTURE.png]

The log is ``waist_sweep_wx200_states.csv`` (and ``..._commands.csv`` beside it), taken from the
diagnostic bag of Interbotix/interbotix_ros_manipulators: 106 s at 100 Hz. The logged goals go
through the real ``dynamixel_sdk`` into an emulated WidowX leader, and its registers are read back
at the instants of the log. The waist of both arms is an XM430-W350.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import dynamixel_sdk as sdk
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from drivers.dynamixel import table as dt
from drivers.emulated.dynamixel.bank import ServoBank, axes_of
from drivers.emulated.dynamixel.chain import ServoChain
from drivers.emulated.dynamixel.motors import LAG_S
from drivers.emulated.dynamixel.virtual_port import VirtualPort
from drivers.emulated.plant import Plant
from teleop.clock import VirtualClock, ns_from_s
from teleop.errors import DeviceError, TandemError
from teleop.rig_files import DEFAULT_RIG, load_rig

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Replay = tuple[Floats, Floats, Floats]
"""Position (rad), velocity (rad/s) and effort (mA), each (T,)."""
Row = tuple[str, str]

ARM = "left_leader"
PROFILE_VELOCITY = 131
"""Register 112 as Interbotix sets it, pi rad/s; the sweep does not reach it."""
PROFILE_ACCELERATION = 10
"""Register 108, 3.7 rad/s^2: identified, see the row of other values in the table."""
MOVING_RAD_S = 0.1
ACCEPTED_RAD = 0.05


@dataclass(frozen=True)
class Log:
    """What the real arm was told and did; (T,) per sample and (C,) per command."""

    time_s: Floats
    position_rad: Floats
    velocity_rad_s: Floats
    effort_ma: Floats
    command_s: Floats
    command_rad: Floats
    others: dict[str, tuple[Floats, Floats]]
    """Of the joints that hold: position and effort."""


def read_log(path: Path) -> Log:
    """The log at a folder or states file.

    Raises:
        DeviceError: what is missing, in words.
    """
    states = path / "waist_sweep_wx200_states.csv" if path.is_dir() else path
    commands = states.with_name(states.name.replace("states", "commands"))
    for file in (states, commands):
        if not file.is_file():
            raise DeviceError(
                f"{file} is missing; point --log at the folder with waist_sweep_wx200_states.csv "
                "and waist_sweep_wx200_commands.csv"
            )
    data = np.genfromtxt(states, delimiter=",", names=True)
    told = np.genfromtxt(commands, delimiter=",", names=True, usecols=(0, 2))
    holding = ("shoulder", "elbow", "wrist_angle", "wrist_rotate")
    return Log(
        data["t_s"],
        data["waist_rad"],
        data["waist_rad_s"],
        data["waist_effort_ma"],
        told["t_s"],
        told["position_command_rad"],
        {name: (data[f"{name}_rad"], data[f"{name}_effort_ma"]) for name in holding},
    )


class EmulatedArm:
    """One WidowX leader: plant, servos, and a host that talks to them by the SDK."""

    def __init__(self, log: Log, acceleration: int) -> None:
        rig = load_rig(DEFAULT_RIG)
        rig = rig.replaced(arms={ARM: rig.arms[ARM].model_dump()})
        self.plant = Plant([ARM], "free", 0)
        self.bank = ServoBank(axes_of(rig), self.plant.step_s)
        self.chain = ServoChain(ARM, rig.arm_model(ARM), self.bank)
        self.clock = VirtualClock()
        self.port = VirtualPort(self.chain, self.clock)
        self.port.openPort()
        self.host = sdk.PacketHandler(2.0)
        names = [joint.name for joint in rig.arm_model(ARM).joints]
        start = {"waist": log.position_rad[0], **{n: p[0] for n, (p, _) in log.others.items()}}
        self.plant.set_arm(ARM, np.array([start.get(name, 0.0) for name in names]), 0.5)
        self.step()
        for servo in self.chain.servos:
            self.host.write4ByteTxRx(self.port, servo.servo_id, 108, acceleration)
            self.host.write4ByteTxRx(self.port, servo.servo_id, 112, PROFILE_VELOCITY)
            self.host.write1ByteTxRx(self.port, servo.servo_id, 64, 1)
        self.reader = sdk.GroupSyncRead(self.port, self.host, 126, 10)
        self.reader.addParam(1)

    def step(self) -> None:
        """One step of the physics."""
        plant = self.plant
        torque = self.bank.torque_nm(plant.step_s, plant.axis_angle_rad, plant.axis_rate_rad_s)
        plant.step(torque, np.zeros(len(torque)))
        self.clock.sleep_until_ns(self.clock.now_ns() + ns_from_s(plant.step_s))

    def run(self, log: Log) -> Replay:
        """Replay the goals; position, velocity and effort of the waist at the log's instants."""
        out = np.empty((3, len(log.time_s)))
        told = 0
        for row, time_s in enumerate(log.time_s):
            while self.clock.now_ns() < ns_from_s(time_s):
                self.step()
                while told < len(log.command_s) and self.clock.now_ns() >= ns_from_s(
                    log.command_s[told]
                ):
                    self.host.write4ByteTxRx(
                        self.port, 1, 116, dt.tick_from_rad(log.command_rad[told])
                    )
                    told += 1
            if self.reader.txRxPacket() != sdk.COMM_SUCCESS:
                raise DeviceError("the emulated waist does not answer; run its tests")
            out[:, row] = (
                (self._value(132, 4) - dt.TICK_ZERO) * dt.RAD_PER_TICK,
                self._value(128, 4) * dt.RAD_S_PER_UNIT,
                self._value(126, 2) * 2.69,
            )
        return out[0], out[1], out[2]

    def _value(self, address: int, size: int) -> int:
        raw = int(self.reader.getData(1, address, size))
        return raw - (1 << 8 * size) if raw >> (8 * size - 1) else raw


def rms(values: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def commanded(log: Log) -> Floats:
    """The goal in force at each sample; the first position before the first goal."""
    index = np.searchsorted(log.command_s, log.time_s, side="right") - 1
    return np.where(index >= 0, log.command_rad[index], log.position_rad[0])


def first_order(log: Log, goal: Floats, lag_s: float) -> Floats:
    """The best that a model without a motion profile could do."""
    out = np.empty_like(goal)
    state = log.position_rad[0]
    steps = np.diff(log.time_s, prepend=log.time_s[0])
    for row, step in enumerate(steps):
        state += (goal[row] - state) * (1 - np.exp(-step / lag_s))
        out[row] = state
    return out


def motion_rows(log: Log, sweep: Mask, emulated: Replay) -> list[Row]:
    """How far position and velocity are off, beside what simpler models would give."""
    position, velocity, _ = emulated
    goal, real = commanded(log), log.position_rad
    lags = np.arange(0.1, 0.6, 0.02)
    errors = [rms((first_order(log, goal, lag) - real)[sweep]) for lag in lags]
    best = int(np.argmin(errors))
    return [
        ("position error RMS, rad: bare command", f"{rms((goal - real)[sweep]):.3f}"),
        (f"  best first-order lag ({lags[best]:.2f} s)", f"{errors[best]:.3f}"),
        ("  emulated servo", f"{rms((position - real)[sweep]):.3f}   (accepted: {ACCEPTED_RAD})"),
        ("  emulated servo, largest", f"{np.abs(position - real)[sweep].max():.3f}"),
        (
            "velocity error RMS, rad/s",
            f"{rms((velocity - log.velocity_rad_s)[sweep]):.3f}   "
            f"(real RMS {rms(log.velocity_rad_s[sweep]):.2f})",
        ),
    ]


def effort_rows(log: Log, sweep: Mask, emulated: Replay) -> list[Row]:
    """Effort against motion: size, sign, friction, rest."""
    _, velocity, effort = emulated
    real = log.effort_ma
    moving = sweep & (np.abs(log.velocity_rad_s) > MOVING_RAD_S)
    rest = sweep & (log.velocity_rad_s == 0) & (velocity == 0)
    before = log.time_s < log.command_s[0]
    first = (log.time_s > log.command_s[0] + 0.4) & (log.time_s < log.command_s[2])
    sizes = np.abs(real[moving]).mean(), np.abs(effort[moving]).mean()
    same = 100 * np.mean(np.sign(real[moving]) == np.sign(effort[moving]))
    return [
        (
            "effort error RMS, mA",
            f"{rms((effort - real)[sweep]):.0f}   (real RMS {rms(real[sweep]):.0f})",
        ),
        ("effort while moving, mean |mA|: real", f"{sizes[0]:.0f}"),
        ("  emulated", f"{sizes[1]:.0f}   (ratio {sizes[1] / sizes[0]:.2f})"),
        ("  equal sign", f"{same:.1f} %"),
        ("friction, mA up / down: real", _by_direction(real, log.velocity_rad_s, sweep)),
        ("  emulated", _by_direction(effort, velocity, sweep)),
        ("resting before any goal, mA", _both(real[before].mean(), effort[before].mean())),
        ("resting after the first move, mA", _both(real[first].mean(), effort[first].mean())),
        ("resting at the turns, RMS mA", _both(rms(real[rest]), rms(effort[rest]))),
    ]


def holding_rows(log: Log, sweep: Mask) -> list[Row]:
    """What the joints that hold draw; the plant balances gravity, so ours draw nothing."""
    return [
        (
            f"holding {name}, mA",
            f"real {held[sweep].mean():+.0f} +- {held[sweep].std():.0f}, emulated 0 "
            "(gravity is balanced)",
        )
        for name, (_, held) in log.others.items()
    ]


def report(log: Log, sweep: Mask, emulated: Replay) -> float:
    """Print the table; returns the position error of the emulated waist."""
    span_s = np.ptp(log.time_s[sweep])
    print(
        f"WidowX 200 waist, {span_s:.0f} s of sweep; servo registers 112 = {PROFILE_VELOCITY}, "
        f"108 = {PROFILE_ACCELERATION}; joint {LAG_S} s behind its set point"
    )
    rows = [
        *motion_rows(log, sweep, emulated),
        *effort_rows(log, sweep, emulated),
        *holding_rows(log, sweep),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return rms((emulated[0] - log.position_rad)[sweep])


def _both(real: float, ours: float) -> str:
    return f"real {real:+.0f}, emulated {ours:+.0f}"


def _by_direction(effort: Floats, velocity: Floats, sweep: Mask) -> str:
    up = effort[sweep & (velocity > MOVING_RAD_S)].mean()
    down = effort[sweep & (velocity < -MOVING_RAD_S)].mean()
    return f"{up:+.0f} / {down:+.0f}   (loop {up - down:.0f})"


def draw(log: Log, emulated: Replay, path: Path) -> None:
    """Two sweeps of position, velocity and effort, real and emulated, and effort by velocity."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 1, figsize=(11, 13), height_ratios=(3, 2, 2, 2))
    part = log.time_s < log.command_s[0] + 18
    real = (log.position_rad, log.velocity_rad_s, log.effort_ma)
    units = ("position, rad", "velocity, rad/s", "effort, mA")
    axes[0].step(log.time_s[part], commanded(log)[part], where="post", color="0.7", label="goal")
    for axis, theirs, ours, unit in zip(axes, real, emulated, units, strict=False):
        axis.plot(log.time_s[part], theirs[part], color="tab:blue", lw=1.4, label="real")
        axis.plot(log.time_s[part], ours[part], color="tab:orange", lw=1.2, label="emulated")
        axis.set_ylabel(unit)
        axis.set_xlabel("time, s")
        axis.legend(loc="upper right")
    axes[3].plot(real[1], real[2], ".", ms=1.5, color="tab:blue", label="real")
    axes[3].plot(emulated[1], emulated[2], ".", ms=1.5, color="tab:orange", label="emulated")
    axes[3].set_xlabel("velocity, rad/s")
    axes[3].set_ylabel("effort, mA")
    axes[3].legend(loc="upper left")
    figure.suptitle("WidowX 200 waist (XM430-W350): real log and emulated servo")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    """Compare, print, draw; 1 when the position error is beyond what is accepted."""
    parser = argparse.ArgumentParser(description="Emulated servo against a real waist sweep")
    parser.add_argument("--log", type=Path, required=True, help="folder or states CSV of the log")
    parser.add_argument("--out", type=Path, help="where to write a picture")
    parser.add_argument(
        "--accelerations", action="store_true", help="also try other values of register 108"
    )
    options = parser.parse_args()
    try:
        log = read_log(options.log)
        # Its last goal was not logged: the arm goes home by itself afterwards.
        sweep = (log.time_s >= log.command_s[0]) & (log.time_s <= log.command_s[-1] + 0.1)
        emulated = EmulatedArm(log, PROFILE_ACCELERATION).run(log)
        error = report(log, sweep, emulated)
        for register in (5, 8, 9, 11, 12, 15, 20) if options.accelerations else ():
            position, _, _ = EmulatedArm(log, register).run(log)
            print(f"  with 108 = {register}: {rms((position - log.position_rad)[sweep]):.3f} rad")
    except TandemError as fault:
        print(fault, file=sys.stderr)
        return 2
    if options.out is not None:
        draw(log, emulated, options.out)
        print(f"picture: {options.out}")
    return int(error > ACCEPTED_RAD)


if __name__ == "__main__":
    sys.exit(main())
