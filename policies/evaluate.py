"""How often does it succeed? Rollouts on the emulated rig, counted with an interval.

Every subject faces the same scenes: scene i of a seed places the objects alike for the expert
and for each policy, so that subjects can be compared scene by scene. Take another seed than
the one the training episodes were recorded with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from policies.card import Card, read_card
from policies.comparison import Score
from policies.deployment import DeployOptions
from policies.policy import OBJECT_POSE
from policies.rollouts import Rollout, SceneRunner, check_free
from policies.video import Taken, write_takes
from recorder.episode import Episode
from recorder.recording import episode_path
from teleop.assembly import Job
from teleop.errors import MissingExtraError, PolicyError, UnknownNameError
from teleop.rig import Rig

EXPERT = "expert"
"""Subject: the scripted operator guiding the leaders, who made the demonstrations."""
OPTIONS = ("device", "allow_start", "loader", *(field.name for field in fields(DeployOptions)))
"""What can be changed at deployment, for this evaluation alone."""


def run(
    subjects: Sequence[str | Path],
    rig: Rig,
    task: str,
    episodes: int,
    seed: int,
    jobs: int | None = None,
    out: Path | None = None,
    cameras: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    show: bool = True,
    calibration: Mapping[str, Any] | None = None,
) -> Iterator[Score]:
    """Let subjects do a task many times, all on the same scenes; yields each one's score.

    What must fail does so before the first scene.

    Args:
        subjects: Each ``expert``, or the folder of a trained policy.
        rig: The rig, its calibration applied; the emulation of it is run.
        task: One that each policy was trained for.
        episodes: How many scenes, from number 0 of the seed.
        seed: Places the objects; another one than that of the training episodes.
        jobs: Processes; one per core when None. The results do not depend on it.
        out: Keep the recordings there, in a folder for each subject.
        cameras: Cameras to run beside those the policies need, for example for a video.
        options: ``device``, ``allow_start``, ``loader``, and fields of ``DeployOptions`` that
            replace the checkpoint's.
        show: Draw a progress bar on standard error.
        calibration: The rig's results, stored in every recording.

    Raises:
        PolicyError: no policy in a folder, one trained for another task, an episode in the
            way, or a scene that could not be run.
        UnknownNameError: no such option.
    """
    options = options or {}
    for name in options:
        if name not in OPTIONS:
            raise UnknownNameError("deployment option", name, OPTIONS)
    folders = _folders(subjects, out)
    cards = [None if str(s) == EXPERT else read_card(Path(s)) for s in subjects]
    work = [
        (subject, *_job_of(subject, card, task, seed, folder, cameras, options))
        for subject, card, folder in zip(subjects, cards, folders, strict=True)
    ]
    warnings = [[] if card is None else differences(card, rig, task, True) for card in cards]
    for subject, card, folder in zip(subjects, cards, folders, strict=True):
        if folder is not None:
            check_free(folder, range(episodes))
        if card is not None and "loader" not in options:
            _try_weights(Path(subject), card)
    with (
        SceneRunner(rig, jobs) as runner,
        _bar("evaluating", episodes * len(work), show) as tick,
    ):
        for (subject, sees, job), said in zip(work, warnings, strict=True):
            job = replace(job, calibration=dict(calibration or {}))
            rollouts = runner.run(job, range(episodes), tick)
            yield Score(str(subject), sees, tuple(rollouts), tuple(said))


def _try_weights(folder: Path, card: Card) -> None:
    # Not at the top: scripted scenes do without torch.
    from policies.checkpoint import load_network

    load_network(folder, card)


def record(
    rig: Rig,
    task: str,
    episodes: int,
    seed: int,
    out: Path,
    jobs: int | None,
    show: bool = True,
    tags: tuple[str, ...] = (),
    cameras: tuple[str, ...] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> list[Rollout]:
    """Let the expert make demonstrations, over several processes; only those still missing.

    Episode i of the folder is scene i of the seed, whatever the number of processes.

    Returns:
        The episodes made now; fewer than ``episodes`` when the folder held some already.

    Raises:
        PolicyError: the folder holds another episode under one of these names.
    """
    out.mkdir(parents=True, exist_ok=True)
    missing = []
    for scene in range(episodes):
        path = episode_path(out, scene)
        if not path.exists():
            missing.append(scene)
            continue
        with Episode(path) as known:
            if (known.task, known.scene) != (task, (seed, scene)):
                raise PolicyError(
                    f"{path} is scene {known.scene} of {known.task}, not {(seed, scene)} of "
                    f"{task}; name another folder with --out"
                )
    if not missing:
        return []
    job = Job("record", task, out=out, seed=seed, tags=tags, cameras=cameras)
    job = replace(job, calibration=dict(calibration or {}))
    with SceneRunner(rig, jobs) as runner, _bar("recording", len(missing), show) as tick:
        return runner.run(job, missing, tick)


def differences(card: Card, rig: Rig, task: str, emulated: bool) -> list[str]:
    """What is otherwise than in the training data, in words; see ``check_rig``.

    Raises:
        UnknownNameError: the rig lacks a camera of the policy.
        PolicyError: the rig is not one that the policy can act on.
    """
    live = rig.replaced(backend="lockstep") if emulated else rig
    return card.contract.check_rig(live, task=task)


def _job_of(
    subject: str | Path,
    card: Card | None,
    task: str,
    seed: int,
    out: Path | None,
    cameras: Sequence[str],
    options: Mapping[str, Any],
) -> tuple[str, Job]:
    """What a subject sees, in words, and the job that lets it act."""
    if card is None:
        chosen = tuple(sorted(set(cameras)))
        return "the scene, scripted", Job("record", task, out=out, seed=seed, cameras=chosen)
    folder = Path(subject)
    if task not in card.contract.tasks:
        trained = " and ".join(card.contract.tasks)
        raise PolicyError(
            f"{folder} was trained for {trained}, not for {task}; "
            f"evaluate it with --task {card.contract.tasks[0]}"
        )
    needed = {view.name for view in card.contract.cameras} | set(cameras)
    return inputs_of(card), Job(
        "deploy",
        task,
        out=out,
        seed=seed,
        cameras=tuple(sorted(needed)),
        options={**options, "checkpoint": str(folder.resolve())},
    )


def _folders(subjects: Sequence[str | Path], out: Path | None) -> list[Path | None]:
    """Where each subject's recordings go; runs of one name are told apart by their number."""
    if out is None:
        return [None] * len(subjects)
    names = [Path(subject).resolve().name for subject in subjects]
    return [
        out.resolve() / (name if names.count(name) == 1 else f"{number}_{name}")
        for number, name in enumerate(names)
    ]


def inputs_of(card: Card) -> str:
    """What a policy sees, in words."""
    contract = card.contract
    parts = ["joints", *(view.name for view in contract.cameras)]
    parts += [
        "object poses (privileged)" if extra.name == OBJECT_POSE else extra.name
        for extra in contract.extras
    ]
    if contract.text is not None:
        parts.append("instruction")
    return "joints only (blind)" if len(parts) == 1 else ", ".join(parts)


@contextmanager
def _bar(what: str, total: int, show: bool) -> Iterator[Callable[[Rollout], None]]:
    """A progress bar that counts scenes and successes."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise MissingExtraError("tqdm", "train", "an evaluation") from error
    succeeded = 0
    with tqdm(total=total, desc=what, unit="scene", disable=not show) as bar:

        def tick(rollout: Rollout) -> None:
            nonlocal succeeded
            succeeded += rollout.success
            bar.set_postfix(success=succeeded, refresh=False)
            bar.update()

        yield tick


VIDEO_ROLLOUTS = 9


def write_video_of(score: Score, camera: str, path: Path) -> int:
    """Recorded successes and failures side by side, framed green and red.

    Half of each where there are enough; the rest of the places go to what there is.

    Returns:
        How many images the video has.

    Raises:
        PolicyError: nothing was recorded, or the file cannot be written.
        UnknownNameError: the rollouts have no such camera.
    """
    kept = [rollout for rollout in score.rollouts if rollout.result.path]
    if not kept:
        raise PolicyError(
            f"{score.subject}: no rollout was recorded, so there is no video; give --out DIR"
        )
    failures = [rollout for rollout in kept if not rollout.success]
    successes = [rollout for rollout in kept if rollout.success]
    bad = min(len(failures), max(VIDEO_ROLLOUTS // 2, VIDEO_ROLLOUTS - len(successes)))
    chosen = successes[: VIDEO_ROLLOUTS - bad] + failures[:bad]
    takes = [Taken(Path(rollout.result.path), rollout.success) for rollout in chosen]
    return write_takes(path, takes, camera)
