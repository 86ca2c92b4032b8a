"""A made-up task without files, and a contract that fits it, for the tests of ``policies``.

A point goes round in circles, noisily; the action is where it is.
"""

from dataclasses import replace

import numpy as np
from policy_episodes import CAMERA, HEIGHT, WIDTH, small_rig

from policies.family import Shapes
from policies.normalisation import ColumnStatistics, ImageStatistics, Statistics
from policies.policy import CameraView, ObservationContract
from policies.windows import Frames, Rows, WindowSet
from recorder.rows import column_names

SETTINGS = {"exposure": None, "focus": None, "white_balance_k": None, "gain": None}
VIEW = CameraView(CAMERA, HEIGHT, WIDTH, HEIGHT, WIDTH, 25.0, SETTINGS)
JOINTS = 14
CONTRACT = ObservationContract(
    tasks=("transfer_cube",),
    joint_names=column_names(small_rig()),
    cameras=(VIEW,),
    extras=(),
    row_hz=50.0,
    chunk_rows=5,
    qpos_low=(-1.0,) * JOINTS,
    qpos_high=(1.0,) * JOINTS,
    action_low=(-1.0,) * JOINTS,
    action_high=(1.0,) * JOINTS,
    start_low=(-1.0,) * JOINTS,
    start_high=(1.0,) * JOINTS,
    calibration_sha256="",
    data_hash="abc",
)
COLUMNS = ColumnStatistics(
    map="standard",
    mean=tuple(float(i) for i in range(JOINTS)),
    std=(0.5,) * JOINTS,
    low=(-1.0,) * JOINTS,
    high=(1.0,) * JOINTS,
    q01=(-1.0,) * JOINTS,
    q99=(1.0,) * JOINTS,
)
STATISTICS = Statistics(COLUMNS, COLUMNS, (ImageStatistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),))

TOY = Shapes(state=4, action=2, chunk_rows=6, history=2)
TOY_IMAGES = replace(TOY, cameras=1, height=HEIGHT, width=WIDTH)


def toy_rows(seed: int, rows: int = 40, images: bool = False) -> Rows:
    """One path."""
    rng = np.random.default_rng(seed)
    angle = 0.15 * np.arange(rows) + rng.uniform(0, 7)
    around = np.stack([np.sin(angle), np.cos(angle)], 1)
    state = np.tile(around, 2) + 0.02 * rng.normal(size=(rows, 4))
    frames = ()
    if images:
        pixels = rng.integers(0, 256, (rows, HEIGHT, WIDTH, 3), np.uint8)
        frames = (Frames(pixels, np.arange(rows)),)
    return Rows(state, around, np.arange(rows), frames=frames, name=f"toy {seed}")


def toy_set(*seeds: int, images: bool = False) -> WindowSet:
    """The windows of some paths."""
    return WindowSet([toy_rows(seed, images=images) for seed in seeds], 6, 2)
