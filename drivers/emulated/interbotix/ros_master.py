"""Emulated Interbotix arms: Debian's ROS 1 master, and a node for each arm's emulated bus.

The master is the real one (package ``python3-rosmaster``), the node ours under the real rospy.
Both run as processes of their own and end with this one, however it ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import yaml

from drivers.dynamixel.units import tick_range
from drivers.emulated.dynamixel.chain import ServoChain
from drivers.emulated.dynamixel.pty_bus import PtyBus
from drivers.emulated.interbotix.xs_sdk_node import DEBIAN_PACKAGES, UP, end_with_parent
from drivers.ros1.link import PatientTransport
from teleop.errors import DeviceError
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_interbotix import InterbotixArm

DEBIAN_NAMES = (
    "python3-rospy",
    "python3-rosmaster",
    "python3-sensor-msgs",
    "python3-trajectory-msgs",
)
"""The Debian 12 packages to install; the rest comes with them."""
START_S = 30.0
"""Longest time that the master, or a node, may take to come up; a second each is usual."""
POLL_S = 0.05
EMULATED_STATE_AGE_S = 0.5
"""The emulated node shares the processor with all else and may be late by some scheduler
slices."""
FINGERS = {"horn_radius": 0.022, "arm_length": 0.036}
"""Of a vx300s (interbotix_xsarm_control), where the arm model says nothing."""


def emulated_fields(
    arms: Mapping[str, InterbotixArm], first_port: int
) -> dict[str, dict[str, Any]]:
    """What replaces the addresses of these arms, by name; arms of one master stay together.

    Whatever way a node is reached at the real rig, the emulated one is reached by ROS 1.

    Args:
        arms: By name.
        first_port: Of the first master; each further one takes the next. There are as many as
            ``arms`` at the most.
    """
    masters = sorted({_master_of(arm) for arm in arms.values()})
    return {
        name: {
            "ros": 1,
            "master": f"http://127.0.0.1:{first_port + masters.index(_master_of(arm))}",
            "max_state_age_s": max(arm.max_state_age_s, EMULATED_STATE_AGE_S),
        }
        for name, arm in arms.items()
    }


def _master_of(arm: InterbotixArm) -> str:
    return arm.address.removesuffix(arm.robot)


class EmulatedRos:
    """The masters and nodes of all Interbotix arms of a rig.

    Args:
        arms: The arms with their emulated addresses.
        models: Each one's arm model.
        chains: Each one's servos.
        folder: An existing folder that lives as long as the run: port links, files, logs.
        lock: Held while a chain works, shared with whoever moves the physics.
    """

    def __init__(
        self,
        arms: Mapping[str, InterbotixArm],
        models: Mapping[str, DynamixelArmModel],
        chains: Mapping[str, ServoChain],
        folder: Path,
        lock: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        ports = sorted({urlsplit(arm.master).port or 0 for arm in arms.values()})
        self.masters = [RosMaster(port, folder) for port in ports]
        self.buses = {name: PtyBus(chains[name], folder / f"ttyDXL_{name}", lock) for name in arms}
        self.nodes = {
            name: XsSdkNode(name, arm, models[name], self.buses[name].link, folder)
            for name, arm in arms.items()
        }

    def start(self) -> None:
        """Start all; the nodes serve when this returns.

        Raises:
            DeviceError: Debian's packages are not installed, or a process does not come up.
        """
        try:
            for master in self.masters:
                master.start()
            for bus in self.buses.values():
                bus.start()
            for node in self.nodes.values():
                node.launch()
            for node in self.nodes.values():
                node.wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all. Never raises."""
        for node in self.nodes.values():
            node.kill()
        for bus in self.buses.values():
            with contextlib.suppress(DeviceError):
                bus.stop()
        for master in self.masters:
            master.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Child:
    """A Python module of ours as a process; its errors go to a file."""

    def __init__(self, module: str, argument: str, log: Path) -> None:
        self._command = [sys.executable, "-m", module, argument]
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it.

        Raises:
            DeviceError: Debian's packages are not installed.
        """
        check_packages()
        environment = os.environ | {
            "ROS_LOG_DIR": str(self._log.parent),
            "ROS_HOME": str(self._log.parent),
            "ROS_IP": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the parent to handle
            )

    def kill(self) -> None:
        """End it at once. Never raises."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def failed(self, what: str) -> DeviceError:
        """In words, with the last line it wrote."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return DeviceError(f"{what} did not come up: {lines[-1] if lines else 'it says nothing'}")


class RosMaster(Child):
    """A ROS master on a port of this machine."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(
            "drivers.emulated.interbotix.ros_master", str(port), folder / f"master_{port}.log"
        )
        self.uri = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """Start it; it answers when this returns.

        Raises:
            DeviceError: Debian's packages are not installed, or it does not come up.
        """
        self.launch()
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise self.failed(f"the ROS master at {self.uri}")
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        try:
            with xmlrpc.client.ServerProxy(self.uri, transport=PatientTransport()) as proxy:
                proxy.getPid("/emulator")
        except OSError:
            return False
        return True


class XsSdkNode(Child):
    """The node of one arm on its emulated bus."""

    def __init__(
        self, name: str, arm: InterbotixArm, model: DynamixelArmModel, port: Path, folder: Path
    ) -> None:
        self._name, self._file = name, folder / f"xs_sdk_{name}.yaml"
        super().__init__(
            "drivers.emulated.interbotix.xs_sdk_node",
            str(self._file),
            folder / f"xs_sdk_{name}.log",
        )
        self.tree: dict[str, Any] = {
            "master": arm.master,
            "robot": arm.robot,
            "port": str(port),
            "motors": motor_config(model),
            "modes": mode_config(model, limp=arm.role == "leader"),
        }

    def start(self) -> None:
        """Start it; it serves when this returns. Raises as ``wait`` does."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it, without waiting."""
        self._file.write_text(yaml.safe_dump(self.tree), encoding="utf-8")
        super().launch()

    def wait(self) -> None:
        """Wait until it serves.

        Raises:
            DeviceError: it does not.
        """
        assert self.process is not None
        process = self.process
        timer = threading.Timer(START_S, process.kill)
        timer.start()
        line = process.stdout.readline() if process.stdout is not None else b""
        timer.cancel()
        if line.strip() != UP.encode():
            self.kill()
            raise self.failed(f"the xs_sdk node of {self._name}")


def motor_config(model: DynamixelArmModel) -> dict[str, Any]:
    """An Interbotix motor configuration for an arm model; see ``teleop.interbotix``."""
    motors: dict[str, dict[str, int]] = {}
    shadows = {}
    for joint in model.joints:
        motors[joint.name] = _motor(joint.id, joint.reverse, joint.min_rad, joint.max_rad)
        if joint.shadow_id is not None:
            shadow, reverse = f"{joint.name}_shadow", joint.shadow_reverse
            motors[shadow] = _motor(joint.shadow_id, reverse, joint.min_rad, joint.max_rad)
            motors[shadow]["Secondary_ID"] = joint.id
            shadows[joint.name] = {"shadow_list": [shadow], "calibrate": False}
    order = [joint.name for joint in model.joints]
    config: dict[str, Any] = {
        "joint_state_publisher": {"update_rate": 100, "read_failure_behavior": 0},
        "groups": {"arm": list(order)},
        "joint_order": order,
        "sleep_positions": list(model.sleep_rad),
        "shadows": shadows,
        "motors": motors,
        "urdf_limits": {joint.name: [joint.min_rad, joint.max_rad] for joint in model.joints},
    }
    if model.gripper is not None:
        gripper = model.gripper
        motors["gripper"] = _motor(gripper.id, gripper.reverse, -math.pi, math.pi)
        order.append("gripper")
        config["sleep_positions"].append(0.0)
        fingers = {"left_finger": "left_finger", "right_finger": "right_finger", **FINGERS}
        if gripper.horn_radius_m is not None and gripper.arm_length_m is not None:
            fingers |= {
                "horn_radius": gripper.horn_radius_m,
                "arm_length": gripper.arm_length_m,
            }
        config["grippers"] = {"gripper": fingers}
    return config


def mode_config(model: DynamixelArmModel, limp: bool) -> dict[str, Any]:
    """An Interbotix mode configuration as ALOHA launches: leaders limp, followers in position."""
    modes: dict[str, Any] = {
        "groups": {"arm": {"operating_mode": "position", "torque_enable": not limp}}
    }
    if model.gripper is not None:
        mode = "position" if limp else "linear_position"
        modes["singles"] = {"gripper": {"operating_mode": mode, "torque_enable": not limp}}
    return modes


def check_packages() -> None:
    """See that Debian's ROS packages are installed.

    Raises:
        DeviceError: naming them.
    """
    found = [(Path(DEBIAN_PACKAGES) / name).is_dir() for name in ("rospy", "rosmaster", "genpy")]
    if not all(found):
        raise DeviceError(
            "emulated Interbotix arms need ROS 1; on Debian 12 run: "
            f"sudo apt-get install --no-install-recommends {' '.join(DEBIAN_NAMES)}"
        )


def _motor(servo_id: int, reverse: bool, min_rad: float, max_rad: float) -> dict[str, int]:
    low, high = tick_range(min_rad, max_rad)
    return {
        "ID": servo_id,
        "Baud_Rate": 3,
        "Return_Delay_Time": 0,
        "Drive_Mode": int(reverse),
        "Min_Position_Limit": low,
        "Max_Position_Limit": high,
        "Secondary_ID": 255,
    }


def _run_master(port: int) -> None:
    end_with_parent()
    sys.path.append(DEBIAN_PACKAGES)
    import rosmaster

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads it
    rosmaster.rosmaster_main(["rosmaster", "--core", "-p", str(port)], env=dict(os.environ))


if __name__ == "__main__":
    _run_master(int(sys.argv[1]))
