"""An arm guided by a hand or a puck, tick by tick, for tests."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np

from teleop.cartesian_guide import CartesianGuide
from teleop.commander import Pose
from teleop.kinematics import ArmKinematics
from teleop.messages import FloatArray, PoseInput, TwistInput
from teleop.rig_cartesian import CartesianSettings
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_files import load_rig
from teleop.rig_franka import FrankaArmModel
from teleop.rig_parts import JointSpec, Workspace
from teleop.rotations import length, turn_between

MS = 1_000_000
TICK_NS = 10 * MS
PERIOD_S = 0.01
VIPER_BOX = Workspace(min_m=(0.15, -0.3, 0.05), max_m=(0.55, 0.3, 0.5))
FRANKA_BOX = Workspace(min_m=(0.25, -0.4, 0.05), max_m=(0.7, 0.4, 0.8))
SETTINGS = CartesianSettings()
AnyArmModel = DynamixelArmModel | FrankaArmModel


@cache
def viper_model() -> DynamixelArmModel:
    """The shipped rig's follower in a box of the tests' own."""
    model = load_rig(Path(__file__).parents[2] / "hardware.yaml").arm_models["vx300s"]
    assert isinstance(model, DynamixelArmModel)
    return model.model_copy(update={"kinematics": "vx300s", "workspace": VIPER_BOX})


@cache
def franka_model() -> FrankaArmModel:
    """An FR3 with the ranges of its kinematic model."""
    start = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
    return FrankaArmModel(
        robot="fr3",
        joints=tuple(JointSpec(name=f"joint{i}", min_rad=-6.0, max_rad=6.0) for i in range(1, 8)),
        max_velocity_rad_s=2.0,
        max_acceleration_rad_s2=10.0,
        start_rad=start,
        sleep_rad=start,
        kinematics="fr3",
        workspace=FRANKA_BOX,
    )


MODELS = {"viper": viper_model, "franka": franka_model}


class Guided:
    """A guide at 100 Hz with one fresh input sample per tick, and what it commanded."""

    def __init__(
        self,
        model: AnyArmModel,
        kind: str = "pose",
        settings: CartesianSettings = SETTINGS,
    ) -> None:
        self.guide = CartesianGuide("arm", model, kind, settings, 0.0, PERIOD_S)
        wide = np.full(len(model.joints), 7.0)
        names = tuple(joint.name for joint in model.joints)
        self.arm = ArmKinematics(model.kinematics, "tcp", names, -wide, wide, wide)
        self.now_ns = 1_000 * MS
        self.start = Pose(np.array(model.start_rad), 0.0)
        self.guide.begin(self.start, self.now_ns)
        self.now_ns += TICK_NS
        self.commands = [self.start]
        self.hand: FloatArray = np.array([0.2, 1.1, -0.4])
        self.tracked = True
        self.squeeze = 0.0
        self.trigger = 0.0

    def hear(self, age_ns: int = 0) -> None:
        self.guide.take(
            PoseInput(
                self.now_ns - age_ns,
                0,
                self.hand,
                np.array([1.0, 0, 0, 0]),
                self.tracked,
                self.trigger,
                self.squeeze,
                np.zeros(2),
                0,
            )
        )

    def push(self, *axes: float) -> None:
        values = np.array(axes)
        self.guide.take(TwistInput(self.now_ns, 0, values[:3], values[3:], 0))
        self.tick()

    def tick(self, after_ns: int = TICK_NS) -> None:
        self.commands.append(self.guide.pose(self.now_ns))
        self.now_ns += after_ns

    def stay(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.hear()
            self.tick()

    def silence(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick()

    def grip(self) -> None:
        self.squeeze = 0.0
        self.stay()
        self.squeeze = 1.0
        self.stay()

    def move(self, by: tuple[float, float, float], ticks: int = 60) -> None:
        start = self.hand
        for part in np.linspace(0, 1, ticks):
            self.hand = start + part * np.array(by)
            self.stay()
        self.stay(150)

    @property
    def tool_m(self) -> FloatArray:
        return self.arm.forward(self.commands[-1].position_rad).position_m

    @property
    def moved_m(self) -> FloatArray:
        return self.tool_m - self.arm.forward(self.start.position_rad).position_m

    def check_caps(self, speed_m_s: float = 0.5, rotation_rad_s: float = 1.5) -> None:
        """Every command within the caps of the tick before it: 3 % for the curve of a tick."""
        poses = [self.arm.forward(command.position_rad) for command in self.commands]
        for last, pose in itertools.pairwise(poses):
            step = length(pose.position_m - last.position_m)
            assert step <= speed_m_s * PERIOD_S * 1.03
            turn = length(turn_between(last.quaternion_wxyz, pose.quaternion_wxyz))
            assert turn <= rotation_rad_s * PERIOD_S * 1.03
