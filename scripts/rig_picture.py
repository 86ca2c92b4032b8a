"""Draw the emulated rig handing over the cube: ``python scripts/rig_picture.py OUT.png``."""

import sys
from pathlib import Path

import cv2
import numpy as np

from drivers.emulated.camera.rendering import SceneRenderer, choose_backend
from teleop.assembly import Job
from teleop.rig_files import load_rig
from teleop.runs import LockstepRig

HAND_OVER_S = 4.6
"""Into the episode: both grippers hold the cube."""


def main(out: Path) -> None:
    """Run a transfer to the hand-over and take three pictures."""
    rig = load_rig(Path(__file__).parents[1] / "docs/rigs/demo.yaml")
    with LockstepRig(rig, Job("teleop", "transfer_cube", cameras=())) as run:
        session = run.session
        run.run(
            lambda: (
                session.phase == "running"
                and session.seconds_in_phase(run.clock.now_ns()) > HAND_OVER_S
            ),
            limit_s=60,
        )
        pose = run.world.plant.snapshot()
        renderer = SceneRenderer(run.world.plant.model, choose_backend())
        below = [renderer.render(pose, c, 320, 240) for c in ("cam_high", "cam_right_wrist")]
        sheet = np.vstack([renderer.render(pose, "overview", 640, 480), np.hstack(below)])
    cv2.imwrite(str(out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
