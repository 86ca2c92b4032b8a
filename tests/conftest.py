"""Small rigs for tests."""

from pathlib import Path

import pytest

from teleop.addresses import free_base_port
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[1]


@pytest.fixture
def aloha() -> Rig:
    """The shipped rig on ports of its own, its arms at an even 100 Hz."""
    rig = load_rig(ROOT / "hardware.yaml")
    rates = rig.rates.model_dump() | {"arm_hz": 100}
    return rig.replaced(network={"base_port": free_base_port(64)}, rates=rates)
