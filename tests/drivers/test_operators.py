"""The people at the emulated rig whose hands are on devices."""

from pathlib import Path

import numpy as np
import pytest

from drivers.emulated.operators.device import DeviceOperator
from drivers.emulated.plant import Plant
from drivers.emulated.stand_in import HandPose, PuckPush
from teleop.messages import FloatArray
from teleop.rig_files import load_rig

RIGS = Path(__file__).parents[2] / "docs" / "rigs"


class Follower:
    """An input device whose arm follows the hand at once."""

    def __init__(self, plant: Plant, arm: str) -> None:
        self._plant = plant
        self._arm = arm
        self._held_at: FloatArray | None = None
        self.moved_m = 0.0

    def start(self) -> None: ...

    def close(self) -> None: ...

    def move(self, name: str, hand: HandPose | PuckPush) -> None:
        assert isinstance(hand, HandPose)
        if self._held_at is not None and hand.squeeze:
            x, y, z = hand.position_m - self._held_at  # of the room
            self._plant.data.site(f"{self._arm}/tcp").xpos[:] += (x, -z, y)
            self.moved_m += float(np.linalg.norm((x, y, z)))
        self._held_at = hand.position_m if hand.squeeze else None


@pytest.mark.parametrize("task", ["reach", "free", "transfer_cube"])
def test_hands_on_devices_bring_the_tools_somewhere_in_any_task(task: str) -> None:
    """To the targets, or where there are none to some place, another in each episode."""
    rig = load_rig(RIGS / "viperx_webxr.yaml")
    plant = Plant(sorted(rig.arms), task, seed=0)
    devices = {arm.input or "": Follower(plant, name) for name, arm in rig.followers.items()}
    operator = DeviceOperator(plant, rig, devices)
    places = []
    for episode in (0, 1):
        plant.reset(episode)
        operator.begin(episode)
        now_s = 0.0
        while not operator.finished and now_s < 30.0:
            now_s += 0.02
            operator.act("running", now_s)
        assert operator.finished
        places.append(plant.data.site("left_follower/tcp").xpos.copy())
    assert all(device.moved_m > 0.05 for device in devices.values())
    assert np.linalg.norm(places[0] - places[1]) > 0.02
