"""An Interbotix arm through the unmodified roslibpy and a small rosbridge of our own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_rosbridge import FakeRosbridge
from xs_bench import REST_RAD, ServoBench, first_error, wait_for

from drivers.dynamixel import table
from drivers.emulated.dynamixel.pty_bus import PtyBus
from drivers.interbotix.arm import InterbotixArm
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig_files import DEFAULT_RIG, load_rig
from teleop.rig_interbotix import InterbotixArm as ArmConfig

JOINTS = 6
TICK = table.RAD_PER_TICK


class Bridge(ServoBench):
    """A follower behind a rosbridge."""

    def __init__(self, folder: Path) -> None:
        super().__init__(load_rig(DEFAULT_RIG), "left_follower")
        self._bus = PtyBus(self.chain, folder / "ttyDXL", self.lock)
        self._bus.start()
        self.start_moving()
        self.bridge = FakeRosbridge(self.name, self.model, self._bus.link)

    def arm(self, **changed: object) -> InterbotixArm:
        """A driver of the arm, not connected."""
        fields = {"master": self.bridge.uri, "robot": self.name} | changed
        config = ArmConfig(
            role="follower", model="vx300s", ros="rosbridge", max_state_age_s=0.5, **fields
        )  # type: ignore[arg-type]
        return InterbotixArm(self.name, config, self.model, MonotonicClock())

    def close(self) -> None:
        """Stop all."""
        self.bridge.close()
        self.stop_moving()
        self._bus.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bridge]:
    """A follower that its node was launched to hold."""
    bench = Bridge(tmp_path)
    yield bench
    bench.close()


def test_an_arm_behind_a_bridge_moves_and_is_lost(bench: Bridge) -> None:
    """From connecting to the bridge's end; a new connection is a new ``connect``."""
    arm = bench.arm()
    arm.connect()
    assert all(bench.torqued())
    assert arm.read().position_rad == pytest.approx(REST_RAD[:JOINTS], abs=2 * TICK)
    goal = np.array([0.3, -0.9, 1.0, 0.2, -0.5, -0.3])
    arm.write(goal, 0.25)
    wait_for(lambda: bool(np.abs(arm.read().position_rad - goal).max() < TICK), "the goal")
    assert arm.read().gripper == pytest.approx(0.25, abs=2e-3)
    wait_for(lambda: "waist_voltage_v" in arm.poll_health().values, "a voltage")
    arm.set_torque(True, False)
    assert bench.torqued() == [True] * 8 + [False]
    assert not arm.torque_off()
    assert not any(bench.torqued())
    bench.bridge.close()
    error = first_error(arm.read)
    assert isinstance(error, DeviceLostError)
    assert "hung up" in str(error)
    with pytest.raises(DeviceLostError):
        arm.write(goal, None)
    arm.close()


def test_a_node_that_ends_behind_the_bridge_is_lost(bench: Bridge) -> None:
    """The bridge says nothing of it; the silence does."""
    arm = bench.arm()
    arm.connect()
    bench.bridge.silent = True
    wait_for(lambda: isinstance(first_error(arm.read), DeviceLostError), "the loss")
    arm.close()


def test_faults_are_told_in_words(bench: Bridge) -> None:
    """A wrong robot, an absent bridge, a failed reading that comes as null."""
    with pytest.raises(DeviceError, match=r"nothing came on /other/joint_states.*correct robot"):
        bench.arm(robot="other").connect()
    with pytest.raises(DeviceError, match=r"no rosbridge answers at ws://127.0.0.1:9 "):
        bench.arm(master="ws://127.0.0.1:9").connect()
    arm = bench.arm()
    arm.connect()
    bench.bridge.core.nan_on_failure = True
    bench.faults.servo_absent.add(4)
    assert "could not read its servos" in str(first_error(arm.read))
    arm.close()


def test_without_the_package_the_extra_is_named() -> None:
    """In a Python that cannot import it."""
    program = (
        "import sys; sys.modules['roslibpy'] = None\n"
        "from drivers.interbotix.arm import transport_of\n"
        "from teleop.clock import MonotonicClock\n"
        "from teleop.rig_interbotix import InterbotixArm\n"
        "arm = InterbotixArm(role='leader', model='m', robot='r', ros='rosbridge', "
        "master='ws://h:1')\n"
        "transport_of('left', arm, MonotonicClock())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'tandem-rig[rosbridge]'" in done.stderr


def test_without_a_sourced_workspace_ros_2_is_refused() -> None:
    """``rclpy`` comes from a ROS 2 workspace only."""
    config = ArmConfig(role="leader", model="wx250s", robot="r", ros=2)
    model = load_rig(DEFAULT_RIG).arm_model("left_leader")
    arm = InterbotixArm("left", config, model, MonotonicClock())  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"left has ros: 2, but rclpy cannot be imported.*source"):
        arm.connect()
