"""The same rig at other addresses: what ``--emulate`` and ``--lockstep`` change, and all of it."""

from __future__ import annotations

from pathlib import Path

from teleop.addresses import free_base_port, topics_of
from teleop.rig import Rig

VIRTUAL = "virtual:"
"""Address prefix of a device that lives in the lockstep world."""


def process_rig(rig: Rig, runtime_dir: Path) -> Rig:
    """The rig with pseudo-terminals and camera URLs, on topic ports that are free now.

    Args:
        rig: As read from the file.
        runtime_dir: An existing folder that lives as long as the run; holds the port links.
    """
    base = free_base_port(len(topics_of(rig)) + 1)
    camera_port = base + len(topics_of(rig))
    return rig.replaced(
        backend="emulated",
        arms={
            name: arm.model_dump()
            | {
                "port": str(runtime_dir / f"ttyDXL_{name}"),
                "read_timeout_s": max(arm.read_timeout_s, EMULATED_READ_TIMEOUT_S),
            }
            for name, arm in rig.arms.items()
        },
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


def lockstep_rig(rig: Rig) -> Rig:
    """The rig with every device inside the lockstep world."""
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
