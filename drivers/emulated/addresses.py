"""The same rig at other addresses: what ``--emulate`` and ``--lockstep`` change, and all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teleop.addresses import free_base_port, topics_of
from teleop.errors import RigError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm
from teleop.rig_franka import FrankaArm
from teleop.rig_inputs import FrankaPilot, Input, OpenVrInput, SpaceMouse
from teleop.rig_interbotix import InterbotixArm

VIRTUAL = "virtual:"
"""Address prefix of a device that lives in the lockstep world."""


def process_rig(rig: Rig, runtime_dir: Path) -> Rig:
    """The rig with pseudo-terminals and camera URLs, on topic ports that are free now.

    Args:
        rig: As read from the file.
        runtime_dir: An existing folder that lives as long as the run; holds the port links.
    """
    topics = len(topics_of(rig))
    base = free_base_port(topics + 2 + len(rig.arms))
    camera_port, page_port, first_master = (base + topics + i for i in range(3))
    arms = arms_at_emulators(rig, runtime_dir, first_master)
    return rig.replaced(
        backend="emulated",
        arms=arms,
        inputs={
            name: config.model_dump() | input_address(name, config, arms, runtime_dir)
            for name, config in rig.inputs.items()
        },
        webxr=rig.webxr.model_dump() | {"host": "127.0.0.1", "port": page_port},
        cameras={
            name: camera.model_dump()
            | {"source": f"http://127.0.0.1:{camera_port}/{name}.mjpg"}
            | UNSUPPORTED_BY_A_URL
            for name, camera in rig.cameras.items()
        },
        network=rig.network.model_dump() | {"base_port": base},
    )


EMULATED_READ_TIMEOUT_S = 0.05
"""Emulated servos share the processor with all else and may be late by some scheduler slices."""

UNSUPPORTED_BY_A_URL = {"exposure": None, "focus": None, "white_balance_k": None, "gain": None}
"""Camera controls that exist on a V4L2 device and not behind a URL."""


DESK_PORT = 8443
"""Of an emulated Franka's Desk, at the arm's own loopback address; 443 is not for everybody."""
DESK_USER, DESK_PASSWORD = "operator", "emulated"


def servo_port(arm: str, runtime_dir: Path) -> Path:
    """The pseudo-terminal of an emulated arm's servo bus."""
    return runtime_dir / f"ttyDXL_{arm}"


def arms_at_emulators(rig: Rig, runtime_dir: Path, first_master: int) -> dict[str, dict[str, Any]]:
    """All arms at their emulated addresses; ROS masters listen from port ``first_master`` on."""
    changed: dict[str, dict[str, Any]] = {}
    ros = {name: arm for name, arm in rig.arms.items() if isinstance(arm, InterbotixArm)}
    if ros:
        from drivers.emulated.interbotix import ros_master

        changed |= ros_master.emulated_fields(ros, first_master)
    for name, arm in rig.arms.items():
        if isinstance(arm, DynamixelArm):
            changed[name] = {
                "port": str(servo_port(name, runtime_dir)),
                "read_timeout_s": max(arm.read_timeout_s, EMULATED_READ_TIMEOUT_S),
            }
        elif isinstance(arm, FrankaArm):
            from drivers.emulated.franka.server import free_franka_host

            changed[name] = {"address": free_franka_host()}
    return {name: arm.model_dump() | changed[name] for name, arm in rig.arms.items()}


def input_address(
    name: str, config: Input, arms: Mapping[str, Mapping[str, Any]], runtime_dir: Path
) -> dict[str, Any]:
    """What of an input's description changes when it is emulated.

    Args:
        name: The input.
        config: Its description.
        arms: The arms at their emulated addresses.
        runtime_dir: The folder of the run.
    """
    if isinstance(config, SpaceMouse):
        from drivers.emulated.spacemouse import hid_mouse

        return dict(hid_mouse.emulated_fields(name, runtime_dir))
    if isinstance(config, OpenVrInput):
        from drivers.emulated.vr import runtime as vr_runtime

        return dict(vr_runtime.emulated_fields(runtime_dir))
    if isinstance(config, FrankaPilot):
        password = runtime_dir / f"{name}.password"
        password.write_text(DESK_PASSWORD)
        password.chmod(0o600)
        return {
            "address": f"{arms[config.arm]['address']}:{DESK_PORT}",
            "username": DESK_USER,
            "password_file": str(password),
        }
    return {}


def lockstep_rig(rig: Rig) -> Rig:
    """The rig with every device inside the lockstep world.

    Raises:
        RigError: a device of it exists in real time only.
    """
    live = [f"arms.{name} ({a.driver})" for name, a in rig.arms.items() if a.driver != "dynamixel"]
    live += [f"inputs.{name} ({config.driver})" for name, config in rig.inputs.items()]
    if live:
        raise RigError(
            rig.name, [f"{', '.join(live)}: emulated in real time only; run with --emulate alone"]
        )
    return rig.replaced(
        backend="lockstep",
        arms={
            name: arm.model_dump() | {"port": f"{VIRTUAL}{name}"} for name, arm in rig.arms.items()
        },
        cameras={
            name: camera.model_dump() | {"source": f"{VIRTUAL}{name}"} | UNSUPPORTED_BY_A_URL
            for name, camera in rig.cameras.items()
        },
    )
