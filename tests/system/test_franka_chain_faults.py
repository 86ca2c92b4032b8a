"""What goes wrong with a Franka, at its arm node: named, still, and mended by the operator only.

The commander goes on asking all the while, under its old lease and under new ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from drivers import input_node
from drivers.arm import node as arm_node
from drivers.emulated.franka.server import FrankaEmulator
from teleop import topics
from teleop.clock import NS_PER_S, MonotonicClock, ns_from_s
from teleop.errors import DeviceError
from teleop.messages import POSITION, ArmCommand, FloatArray, StopState
from teleop.node import Inputs, NodeContext, Received
from teleop.rig import Rig
from teleop.rig_files import load_rig

if find_spec("franky") is None:
    pytest.skip("franky-control is not installed", allow_module_level=True)

CLOCK = MonotonicClock()
RIGS = Path(__file__).parents[2] / "docs" / "rigs"
ARM = "franka"
TICK_NS = ns_from_s(0.01)
PATIENCE_S = 30.0
"""Two attempts to reach a server that says nothing take 12 s."""
SWING_RAD, SWING_1_S = 0.1, 2.0
MOVED_RAD = 0.05
"""By so much a follower that obeys has gone within a second."""
STILL_RAD = 0.01
"""What a robot that lets its own control take over sags or swings."""
A_WHILE = 50
"""Ticks for which it must not move."""


class Bench:
    """An arm node with its emulated robot, a commander that asks for a swing, and a session."""

    def __init__(self, rig: Rig, robot: FrankaEmulator) -> None:
        self.robot = robot
        self.node = arm_node.build(ARM, NodeContext(rig, CLOCK))
        self.lease = "first"
        self.stop = False
        self._home_rad = np.array(rig.arm_model(ARM).start_rad)
        self._seq = itertools.count()
        self._begun_ns = CLOCK.now_ns()

    def close(self) -> None:
        self.node.close()

    def step(self) -> None:
        """One tick, in real time."""
        now_ns = CLOCK.now_ns()
        said = {
            topics.arm_command(ARM): [Received(self._command(now_ns), now_ns)],
            topics.SESSION_STOP: [Received(StopState(now_ns, 0, self.stop, ""), now_ns)],
        }
        self.node.step(Inputs(said), now_ns)
        CLOCK.sleep_until_ns(now_ns + TICK_NS)

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline_ns = CLOCK.now_ns() + ns_from_s(PATIENCE_S)
        while not condition():
            assert CLOCK.now_ns() < deadline_ns, f"{what}: {self.node.health(CLOCK.now_ns())}"
            self.step()

    @property
    def words(self) -> str:
        return self.node.health(CLOCK.now_ns()).detail

    @property
    def q(self) -> FloatArray:
        """Where the robot really is, shape (7,)."""
        return np.array(self.robot.state()["q"])

    def follow(self, lease: str) -> None:
        """A lease that was never ended is obeyed."""
        self.lease = lease
        here = self.q
        self.until(
            lambda: self.node.mode == "follow" and np.abs(self.q - here).max() > MOVED_RAD,
            "the arm follows",
        )

    def fault(self, words: str) -> None:
        """The node is in fault with these words, and nobody moves the robot, whoever asks."""
        self.until(lambda: self.node.mode == "fault" and words in self.words, words)
        self.until(lambda: np.abs(self.robot.state()["dq"]).max() < 1e-3, "the robot stands")
        self.stays("fault", "first", "another")

    def stays(self, mode: str, *leases: str) -> None:
        """For half a second under each of these leases the robot does not move."""
        here = self.q
        for lease in leases:
            self.lease = lease
            for _ in range(A_WHILE):
                self.step()
                assert self.node.mode == mode, self.words
            assert np.abs(self.q - here).max() < STILL_RAD

    def clear(self) -> None:
        """The operator's act: an emergency stop, and its end."""
        self.stop = True
        for _ in range(10):
            self.step()
        self.stop = False
        self.until(lambda: self.node.mode == "hold", "the fault is cleared")

    def _command(self, now_ns: int) -> ArmCommand:
        at_s = (now_ns - self._begun_ns) / NS_PER_S
        return ArmCommand(
            stamp_ns=now_ns,
            seq=next(self._seq),
            position_rad=self._home_rad + SWING_RAD * np.sin(SWING_1_S * at_s),
            gripper=1.0,
            valid_until_ns=now_ns + ns_from_s(0.1),
            source="test",
            lease=self.lease,
            mode=POSITION,
            origin_ns=0,
        )


@pytest.fixture
def robot() -> Iterator[FrankaEmulator]:
    with FrankaEmulator("fr3") as robot:
        yield robot


@pytest.fixture
def rig(robot: FrankaEmulator) -> Rig:
    """The rig of a commanded Franka, at the emulated robot's address."""
    rig = load_rig(RIGS / "franka_spacemouse.yaml")
    arm = rig.arms[ARM].model_dump() | {"address": robot.host, "input": None}
    return rig.replaced(arms={ARM: arm}, inputs={}, cameras={})


@pytest.fixture
def bench(rig: Rig, robot: FrankaEmulator) -> Iterator[Bench]:
    """A Franka that follows."""
    with closing(Bench(rig, robot)) as bench:
        bench.follow("first")
        yield bench


@pytest.mark.parametrize(
    ("kind", "args", "words"),
    [
        ("reflex", {"error": "cartesian_reflex"}, "cartesian_reflex (the arm met something"),
        ("drop_packets", {"n": 25}, "missed 20 commands in a row"),
        ("user_stop", {}, "the user stop is pressed; look, then release it"),
    ],
)
def test_a_stop_by_the_robot_itself_ends_by_the_operators_act_only(
    bench: Bench, kind: str, args: dict[str, object], words: str
) -> None:
    """Reflex, 25 lost packets, user stop; cleared, the arm holds until a new lease moves it."""
    bench.robot.fault(kind, **args)
    bench.fault(words)
    assert "clear it by emergency stop" in bench.words
    if kind == "user_stop":
        bench.robot.fault("user_stop_released")
        bench.stays("fault", "third")
    bench.clear()
    bench.stays("hold", "first", "another")
    bench.follow("after the clearing")


def test_a_robot_that_comes_back_with_another_version_is_named(bench: Bench) -> None:
    """Its system was updated meanwhile: a fault that tells the wheel, for as long as it lasts."""
    bench.robot.fault("wrong_version", version=9)
    bench.robot.fault("kick")
    bench.fault("the robot speaks server version 9")
    assert "by-robot-server-version/9/" in bench.words
    bench.robot.fault("clear")
    bench.until(lambda: bench.node.mode == "hold", "the robot is found again")
    bench.stays("hold", "first", "another")
    bench.follow("afterwards")


def test_a_wrong_server_version_starts_no_run(rig: Rig, robot: FrankaEmulator) -> None:
    """The refusal names both versions and the wheel to install."""
    robot.fault("wrong_version", version=9)
    with pytest.raises(DeviceError, match=r"server version 9.*speaks 10.*server-version/9/"):
        arm_node.build(ARM, NodeContext(rig, CLOCK))


def test_a_server_that_falls_silent_is_named_and_found_again(bench: Bench) -> None:
    """Lost first; then something accepts connections and never says a word."""
    bench.robot.fault("black_hole")
    bench.robot.fault("kick")
    here = bench.q
    bench.until(lambda: "has not answered for" in bench.words, "the words")
    assert bench.node.mode == "fault"
    assert bench.words.startswith("lost: ")
    assert np.abs(bench.q - here).max() < MOVED_RAD  # It was moving, and brakes by itself.
    bench.robot.fault("clear")
    bench.until(lambda: bench.node.mode == "hold", "the robot is found again")
    bench.stays("hold", "first")
    bench.follow("afterwards")


def test_a_robot_that_another_program_has_is_not_taken_from_it(bench: Bench, rig: Rig) -> None:
    """Port busy: a second rig does not start, and the first one's arm goes on."""
    with pytest.raises(DeviceError, match=f"{ARM}: {bench.robot.host}"):
        arm_node.build(ARM, NodeContext(rig, CLOCK))
    bench.follow("first")


def test_a_password_that_others_may_read_starts_no_run(rig: Rig, tmp_path: Path) -> None:
    """Permission: the file of Desk's password is the operator's alone."""
    file = tmp_path / "desk_password"
    file.write_text("secret")
    file.chmod(0o644)
    pilot = {
        "driver": "franka_desk",
        "address": rig.arms[ARM].address,
        "username": "operator",
        "password_file": file,
        "arm": ARM,
    }
    with pytest.raises(DeviceError, match=f"chmod 600 {file}"):
        input_node.build("pilot", NodeContext(rig.replaced(inputs={"pilot": pilot}), CLOCK))
