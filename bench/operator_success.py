"""How often the scripted operator succeeds: ``python bench/operator_success.py --poses 100``.

Everything but the wire is real here: the hand pulls the leaders through the physics, servo
models hold and drive, and a follower hears of its leader as late as over two buses at 100 Hz.
The whole chain, packets included, is measured by ``tandem record --emulate``.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drivers.emulated.dynamixel.bank import Drive, ServoBank
from drivers.emulated.dynamixel.motors import axes_of
from drivers.emulated.operators.operator import Operator, ScriptedOperator
from drivers.emulated.plant import ARMS, GRIPPER_RAD, START_RAD, Plant, role_of
from policies.statistics import wilson
from teleop.messages import FloatArray
from teleop.rig import Rig
from teleop.rig_files import load_rig

HARDWARE = Path(__file__).parents[1] / "hardware.yaml"
CONTROL_STEPS = 5
"""Physics steps per control tick: 100 Hz."""
DELAY_TICKS = 2
"""Control ticks from the reading of a leader to the write to its follower, 20 ms."""
READY_S = 0.8
AFTER_S = 0.5


@dataclass(frozen=True)
class Result:
    """One episode."""

    success: bool
    seconds: float
    """Simulated time from start to the operator's end."""
    stages: tuple[int, ...]
    """Stages in the order in which they were first seen."""
    tracking_rad: float
    """Mean distance between followers' joints and their set points."""


class DirectRig:
    """Plant and servo models, each follower's goals taken straight from its leader's angles."""

    def __init__(self, task: str, seed: int, rig: Rig | None = None) -> None:
        self.rig = rig or load_rig(HARDWARE)
        self.plant = Plant(ARMS, task, seed)
        self.bank = ServoBank(axes_of(self.rig))
        self.operator: Operator = ScriptedOperator(self.plant, seed)
        self._goal_rad = self.plant.axis_angle_rad
        self._late: deque[FloatArray] = deque()

    def run(self, episode: int, limit_s: float = 20.0) -> Result:
        """One episode from the start pose."""
        plant = self.plant
        for arm in ARMS:
            plant.set_arm(arm, np.array(START_RAD), 0.5)
        plant.reset(episode)
        self.operator.begin(episode)
        self._goal_rad = plant.axis_angle_rad
        self._late.clear()
        self._power("ready")
        self.go_on("ready", READY_S)
        self._power("running")
        began_s = plant.time_s
        stages: list[int] = []
        errors: list[float] = []
        while not self.operator.finished and plant.time_s - began_s < limit_s:
            self._tick("running")
            if (stage := plant.task_state()[0]) not in stages:
                stages.append(stage)
            errors.append(self._tracking_rad())
        seconds = plant.time_s - began_s
        self.go_on("running", AFTER_S)
        return Result(plant.task_state()[2], seconds, tuple(stages), float(np.mean(errors)))

    def _power(self, phase: str) -> None:
        """Torque as the commander sets it: leaders limp while the episode runs."""
        for i, axis in enumerate(self.bank.axes):
            follower = role_of(axis.arm) == "follower"
            gripper = self.rig.arm_model(axis.arm).gripper
            limit_a = gripper.current_limit_a if gripper and axis.name == "gripper" else None
            held = follower or (phase == "ready" and axis.name != "gripper")
            drive = Drive(power=float(held))
            if limit_a is not None:
                drive = Drive(power=float(held), torque_limit_nm=limit_a * axis.kt_nm_a)
            self.bank.drive(i, drive)
            self.bank.goal(i, self._goal_rad[i])

    def go_on(self, phase: str, seconds: float) -> None:
        until_s = self.plant.time_s + seconds
        while self.plant.time_s < until_s:
            self._tick(phase)

    def _tick(self, phase: str) -> None:
        if phase == "running":
            self._late.append(self.plant.axis_angle_rad)
            if len(self._late) > DELAY_TICKS:
                self._follow(self._late.popleft())
        for _ in range(CONTROL_STEPS):
            plant = self.plant
            servo = self.bank.torque_nm(plant.step_s, plant.axis_angle_rad, plant.axis_rate_rad_s)
            hand = self.operator.hand_torque_nm(phase, plant.time_s)
            plant.step(servo, hand)

    def _follow(self, seen_rad: FloatArray) -> None:
        """New goals for the followers, within the velocity limits of their model."""
        tick_s = CONTROL_STEPS * self.plant.step_s
        for name, arm in self.rig.followers.items():
            assert arm.leader is not None
            mine, model = self.plant.axes_of(name), self.rig.arm_model(name)
            goal = seen_rad[self.plant.axes_of(arm.leader)]
            closed, opened = GRIPPER_RAD["leader"]
            opening = np.clip((goal[-1] - closed) / (opened - closed), 0.0, 1.0)
            closed, opened = GRIPPER_RAD["follower"]
            goal[-1] = closed + (opened - closed) * opening
            step = np.full(len(goal), model.max_velocity_rad_s * tick_s)
            if model.gripper is not None:
                step[-1] = model.gripper.max_velocity_1_s * (opened - closed) * tick_s
            now = self._goal_rad[mine]
            self._goal_rad[mine] = now + np.clip(goal - now, -step, step)
            for i in range(mine.start, mine.stop):
                self.bank.goal(i, self._goal_rad[i])

    def _tracking_rad(self) -> float:
        error = np.abs(self._goal_rad - self.plant.axis_angle_rad).reshape(-1, 7)[:, :6]
        return float(error[[role_of(arm) == "follower" for arm in ARMS]].mean())


def main() -> None:
    """Print one line per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--poses", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--tasks", nargs="+", default=["transfer_cube", "insertion"])
    args = parser.parse_args()
    print("task            success   95 % interval          seconds  lag rad  CPU s")
    for task in args.tasks:
        rig = DirectRig(task, args.seed)
        cpu = time.process_time()
        results = [rig.run(episode) for episode in range(args.poses)]
        cpu = (time.process_time() - cpu) / args.poses
        good = sum(result.success for result in results)
        low, high = wilson(good, args.poses)
        seconds = np.array([result.seconds for result in results])
        lag = np.mean([result.tracking_rad for result in results])
        print(
            f"{task:14} {good:>4} / {args.poses:<3} {low:>6.1%} ... {high:>5.1%} "
            f"{np.median(seconds):>6.1f} (max {seconds.max():.1f}) {lag:>8.3f} {cpu:>6.2f}"
        )
        for episode, result in enumerate(results):
            if not result.success:
                print(f"  failed: episode {episode}, stages {result.stages}")


if __name__ == "__main__":
    main()
