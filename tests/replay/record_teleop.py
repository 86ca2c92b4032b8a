"""Makes the recording ``teleop_node.replay.gz`` anew: ``python tests/replay/record_teleop.py``.

One emulated leader and follower, homed, teleoperated by a swaying hand, stopped, with one
emergency stop: through the real driver, servo buses and physics.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parents[1]), str(HERE.parent / "drivers")]

from process_replay import Recording, Tap  # noqa: E402
from test_arm_node_on_bus import Pair  # noqa: E402

from teleop.lockstep import Lockstep  # noqa: E402
from teleop.rig_files import load_rig  # noqa: E402

PATH = HERE / "teleop_node.replay.gz"


def record() -> Recording:
    """Run the scene and keep what the commander heard and said."""
    rig = load_rig(HERE.parents[1] / "hardware.yaml")
    pair = Pair(rig.replaced(rates={"arm_hz": 25.0}))
    tap = Tap(pair.commander)
    nodes = [pair.session, *pair.nodes.values()]
    pair.runner = Lockstep([*nodes, tap], pair.clock, pair.branches, pair.world)
    pair.until(lambda: tap.health(pair.clock.now_ns()).state == "home")
    for phase, seconds in (("ready", 0.2), ("running", 1.5), ("stopping", 0.3)):
        pair.enter(phase)
        pair.seconds(seconds)
    pair.session.episode = 1
    pair.enter("homing")
    pair.seconds(0.3)
    pair.session.stop = True
    pair.seconds(0.2)
    pair.session.stop = False
    pair.seconds(0.5)
    return Recording(pair.rig, tap.steps)


if __name__ == "__main__":
    record().save(PATH)
