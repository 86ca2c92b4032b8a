"""How often does it succeed? Rollouts on the emulated rig, counted with an interval.

Every subject faces the same scenes: episode i of a seed places the objects alike for the
expert and for each policy, so that subjects can be compared scene by scene. Take another
seed than the one the training episodes were recorded with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.card import read_card
from policies.policy import OBJECT_POSE
from policies.statistics import wilson
from policies.video import framed, frames_of, side_by_side, write_video
from recorder.episode import Episode
from teleop.assembly import Job
from teleop.errors import PolicyError
from teleop.session_plan import EpisodeResult

EXPERT = "expert"
"""Subject: the scripted operator guiding the leaders, who made the demonstrations."""

RunJob = Callable[[Job], Sequence[EpisodeResult]]
"""Runs a job on the emulated rig to its end and tells what became of each episode."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a subject achieved."""

    subject: str
    """``expert`` or the folder of a policy."""
    sees: str
    """What its actions were decided on."""
    results: tuple[EpisodeResult, ...]

    @property
    def trials(self) -> int:
        return len(self.results)

    @property
    def successes(self) -> int:
        return sum(result.outcome == "success" for result in self.results)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson(self.successes, self.trials)

    @property
    def mean_stage(self) -> float:
        """Mean over episodes of the furthest reward stage reached."""
        return sum(result.stage for result in self.results) / max(1, self.trials)

    @property
    def mean_seconds(self) -> float:
        """Mean duration of the successful episodes; NaN without one."""
        times = [result.seconds for result in self.results if result.outcome == "success"]
        return sum(times) / len(times) if times else float("nan")


def evaluate(
    subject: str | Path,
    run: RunJob,
    task: str,
    episodes: int,
    seed: int,
    out: Path | None = None,
    cameras: tuple[str, ...] | None = None,
) -> Score:
    """Let a subject do a task many times.

    Args:
        subject: ``expert``, or the folder of a trained policy.
        run: Runs the job on the emulated rig.
        task: Must be the task that the policy was trained for.
        episodes: How many scenes, from number 0 of the seed.
        seed: Places the objects; another one than that of the training episodes.
        out: Record the episodes there; None records nothing.
        cameras: Cameras to run beside those the policy needs, for example for a video.

    Raises:
        PolicyError: no policy in that folder, or one trained for another task.
    """
    extra = set(cameras or ())
    if subject == EXPERT:
        job = Job("record", task, episodes, out, seed, cameras=tuple(sorted(extra)))
        return Score(EXPERT, "the scene, scripted", tuple(run(job)))
    folder = Path(subject)
    contract = read_card(folder).contract
    if contract.task != task:
        raise PolicyError(
            f"{folder} was trained for {contract.task!r}, not for {task!r}; "
            f"evaluate it with --task {contract.task}"
        )
    seen = {view.name for view in contract.cameras}
    job = Job(
        "deploy",
        task,
        episodes,
        out,
        seed,
        cameras=tuple(sorted(seen | extra)),
        options={"checkpoint": str(folder.resolve())},
    )
    return Score(str(folder), inputs_of(folder), tuple(run(job)))


def inputs_of(folder: Path) -> str:
    """What a policy sees, in words."""
    contract = read_card(folder).contract
    parts = ["joints", *(view.name for view in contract.cameras)]
    parts += [
        "object poses (privileged)" if extra.name == OBJECT_POSE else extra.name
        for extra in contract.extras
    ]
    return "joints only (blind)" if len(parts) == 1 else ", ".join(parts)


VIDEO_ROLLOUTS = 9
VIDEO_EVERY_ROWS = 2
BORDER_PX = 4
SUCCESS_RGB, FAILURE_RGB = (40, 170, 60), (210, 50, 40)


def write_video_of(score: Score, camera: str, path: Path) -> None:
    """The first recorded rollouts side by side, framed green (success) or red.

    Raises:
        PolicyError: nothing was recorded, or the file cannot be written.
        UnknownNameError: the rollouts have no such camera.
    """
    shown = [result for result in score.results[:VIDEO_ROLLOUTS] if result.path]
    if not shown:
        raise PolicyError(f"{score.subject}: no rollout was recorded, so there is no video")
    rollouts = []
    for result in shown:
        colour = SUCCESS_RGB if result.outcome == "success" else FAILURE_RGB
        frames = frames_of(Path(result.path), camera, VIDEO_EVERY_ROWS)
        rollouts.append([framed(frame, BORDER_PX, colour) for frame in frames])
    with Episode(shown[0].path) as episode:
        fps = episode.row_hz / VIDEO_EVERY_ROWS
    write_video(path, side_by_side(rollouts, columns=math.isqrt(len(rollouts))), fps)


def table(scores: Sequence[Score]) -> str:
    """The scores in Markdown."""
    head = [
        "| subject | sees | successes | rate | 95 % interval | mean stage | mean time |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_row(score) for score in scores])


def _row(score: Score) -> str:
    low, high = score.interval
    rate = score.successes / max(1, score.trials)
    most = max((result.max_stage for result in score.results), default=0)
    seconds = f"{score.mean_seconds:.1f} s" if score.successes else "-"
    cells = [
        score.subject,
        score.sees,
        f"{score.successes}/{score.trials}",
        f"{rate:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{score.mean_stage:.1f}/{most}",
        seconds,
    ]
    return f"| {' | '.join(cells)} |"
