"""Small real episode files for the tests of ``policies``.

A made-up task: a red square lies somewhere in the image, and the first joint of each arm goes
to an angle that only the square's place tells. Written by the recorder's own journals and
builder, at 50 Hz rows with one 32x24 camera at 25 fps.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from recorder.builder import build
from recorder.meta import Meta
from recorder.recorder_node import plan_streams
from recorder.recording import Recording
from teleop import topics
from teleop.messages import (
    ArmApplied,
    ArmState,
    EpisodeEvent,
    FloatArray,
    Frame,
    Message,
    TaskState,
)
from teleop.node import Received
from teleop.rig import Rig
from teleop.rig_files import load_rig

ROW_NS = 20_000_000
ARMS = ("left_follower", "right_follower")
CAMERA = "cam_high"
HEIGHT, WIDTH = 24, 32


def small_rig(backend: str = "lockstep") -> Rig:
    """Two followers at 50 Hz and one small camera."""
    rig = load_rig(Path(__file__).parents[2] / "hardware.yaml")
    return rig.replaced(
        arms={name: arm.model_dump() | {"leader": None} for name, arm in rig.followers.items()},
        cameras={CAMERA: {"source": 0, "width": WIDTH, "height": HEIGHT, "fps": 25}},
        tasks={"transfer_cube": {"instruction": "test", "cameras": [CAMERA]}},
        rates={"arm_hz": 50, "row_hz": 50, "task_hz": 50},
        recording={"min_free_bytes": 0},
        backend=backend,
    )


def place_of(episode: int) -> FloatArray:
    """Where the square lies, (2,) in 0.2 ... 0.8 of the image's height and width."""
    return np.random.default_rng(episode).uniform(0.2, 0.8, 2)


def image_of(place: FloatArray) -> np.ndarray:
    """The square on grey, (HEIGHT, WIDTH, 3) RGB."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    y, x = int(place[0] * HEIGHT), int(place[1] * WIDTH)
    image[y - 3 : y + 3, x - 3 : x + 3] = (220, 30, 30)
    return image


def action_of(place: FloatArray, row: int, rows: int) -> FloatArray:
    """Both arms' command at a row, (14,): a ramp of the waists to the square's coordinates."""
    action = np.tile(np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5]), 2)
    action[[0, 7]] = place * min(1.0, 2 * row / rows)
    return action


@dataclass
class Scribe:
    """Writes messages into an episode as they would have arrived."""

    recording: Recording
    now_ns: int = 0

    def say(self, topic: str, message: Message) -> None:
        self.recording.append(topic, Received(message, self.now_ns))


def write_episode(
    folder: Path,
    episode: int,
    rows: int = 40,
    rig: Rig | None = None,
    outcome: str = "success",
    task: str = "transfer_cube",
    action_fault: float = 0.0,
    operator: str = "",
    tags: tuple[str, ...] = (),
    instruction: str = "",
) -> Path:
    """One finished episode; ``action_fault`` is added to every command."""
    rig = rig or small_rig()
    place = place_of(episode)
    streams = plan_streams(rig, next(iter(rig.tasks)))
    meta = Meta(
        task=task,
        instruction=instruction,
        operator=operator,
        episode=episode,
        start_ns=0,
        wall_start="",
        software_version="test",
        rig=rig.model_dump(mode="json"),
        calibration={},
        job="record",
        scene=(0, episode),
        streams=streams,
        tags=tags,
    )
    scribe = Scribe(Recording(folder, meta, 60.0))
    jpeg = simplejpeg.encode_jpeg(image_of(place), quality=95, colorspace="RGB")
    # Every other frame has a comment: a camera that repeats itself fails the recorder's verdict.
    jpegs = [jpeg, jpeg[:2] + b"\xff\xfe\x00\x03." + jpeg[2:]]
    scribe.say(topics.SESSION_EVENT, EpisodeEvent(0, 0, "start", episode, task, "unknown", ""))
    for row in range(rows):
        now_ns = scribe.now_ns = row * ROW_NS
        action = action_of(place, row, rows) + action_fault
        for arm, part in zip(ARMS, (action[:7], action[7:]), strict=True):
            scribe.say(topics.arm_state(arm), state_of(part, row, now_ns))
            applied = ArmApplied(now_ns, row, part[:6], float(part[6]), row, 0, "follow", 0)
            scribe.say(topics.arm_applied(arm), applied)
        if row % 2 == 0:
            frame = Frame(now_ns, row // 2, now_ns, "jpeg", WIDTH, HEIGHT, jpegs[row // 2 % 2])
            scribe.say(topics.camera_frame(CAMERA), frame)
        pose = np.array([[*place, 0.0, 1.0, 0.0, 0.0, 0.0]])
        scribe.say(topics.TASK_STATE, TaskState(now_ns, row, task, 0, 4, False, pose))
    stop = EpisodeEvent(scribe.now_ns, 1, "stop", episode, task, outcome, "")
    scribe.say(topics.SESSION_EVENT, stop)
    scribe.recording.stop()
    return build(scribe.recording.folder, scribe.recording.target).path


def state_of(columns: FloatArray, seq: int, now_ns: int) -> ArmState:
    """A reading of one arm from its 7 columns of qpos."""
    zeros = np.zeros(6)
    return ArmState(now_ns, seq, columns[:6], zeros, zeros, float(columns[6]), 0.0, 0.0)
