"""Small rigs for tests."""

from pathlib import Path

import pytest

from teleop.addresses import free_base_port
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROOT = Path(__file__).parents[1]
BATCH = (
    "test_layout.py",
    "unit",
    "replay",
    "system/test_every_family.py",
    "system/test_parallel_evaluation.py",
    "system/test_training_run.py",
    "system/test_two_process_training.py",
)
"""Tests that only compute: as slow as the machine, and right on any."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those tests; ``scripts/test`` runs them beside the others, at the lowest priority."""
    places = tuple(str(ROOT / "tests" / place) for place in BATCH)
    for item in items:
        if str(item.path).startswith(places):
            item.add_marker(pytest.mark.batch)


@pytest.fixture
def aloha() -> Rig:
    """The shipped rig on ports of its own, its arms at an even 100 Hz."""
    rig = load_rig(ROOT / "hardware.yaml")
    rates = rig.rates.model_dump() | {"arm_hz": 100}
    return rig.replaced(network={"base_port": free_base_port(64)}, rates=rates)
