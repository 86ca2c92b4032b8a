"""Small rigs for tests."""

import socket
from pathlib import Path

import pytest

from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[1]


def free_base_port(count: int = 64) -> int:
    """The first of ``count`` consecutive TCP ports that are free now."""
    for base in range(20_000, 60_000, 97):
        sockets: list[socket.socket] = []
        try:
            for port in range(base, base + count):
                s = socket.socket()
                sockets.append(s)
                s.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return base
        finally:
            for s in sockets:
                s.close()
    raise RuntimeError("no free ports")


@pytest.fixture
def aloha() -> Rig:
    """The shipped rig on ports of its own."""
    rig = load_rig(ROOT / "hardware.yaml")
    return rig.replaced(network={"base_port": free_base_port()})
