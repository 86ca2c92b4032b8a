"""Many scenes on the emulated rig, spread over processes.

Every scene gets a rig of its own, fresh from the start: building one takes 0.04 s, and an
episode that follows another begins with other servo and contact states than one that does
not, so that its outcome would depend on how the scenes were dealt out. This way a scene's
outcome depends on the scene alone, whatever the number of processes.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Self

from policies.motion_metrics import Motion, motion_of
from recorder.recording import episode_path
from teleop.assembly import Job
from teleop.errors import PolicyError, TandemError
from teleop.rig import Rig
from teleop.runs import run_lockstep
from teleop.session_plan import EpisodeResult

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""One thread a process: the scenes fill the cores already, and OpenMP's waiting threads spin."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What became of one scene."""

    scene: int
    """Its number under the seed."""
    result: EpisodeResult
    """``path`` names the recording, empty when it was not kept."""
    motion: Motion

    @property
    def success(self) -> bool:
        return self.result.outcome == "success"


class SceneRunner:
    """Processes that run scenes; a context, so that several subjects share their start-up.

    Args:
        rig: The rig as read from its file; the emulation of it is run.
        processes: How many; one per core when None.
    """

    def __init__(self, rig: Rig, processes: int | None = None) -> None:
        if processes is not None and processes < 1:
            raise PolicyError(f"{processes} processes cannot run anything; give --jobs 1 or more")
        self._rig = rig
        self.processes = processes or len(os.sched_getaffinity(0))
        self._pool = ProcessPoolExecutor(self.processes, get_context("spawn"), _ignore_interrupt)

    def run(
        self, job: Job, scenes: Sequence[int], on_rollout: Callable[[Rollout], None] | None = None
    ) -> list[Rollout]:
        """Run a job once per scene; in the order of ``scenes``.

        Args:
            job: What to do. With ``out`` the episode of scene i is kept as episode i there,
                without it recordings are measured and dropped.
            scenes: Numbers under the job's seed.
            on_rollout: Called as each scene ends, in no fixed order.

        Raises:
            PolicyError: a scene could not be run, would overwrite an episode, or a process died.
        """
        if job.out is not None:
            check_free(job.out, scenes)
        try:
            with _threads_of_children():
                waiting = [self._pool.submit(run_scene, self._rig, job, scene) for scene in scenes]
                for future in as_completed(waiting):
                    if on_rollout is not None:
                        on_rollout(future.result())
            return [future.result() for future in waiting]
        except BrokenProcessPool as error:
            raise PolicyError(
                "a process that ran scenes died, perhaps for lack of memory; give fewer --jobs"
            ) from error

    def close(self) -> None:
        """Let go of scenes that have not begun; a second Ctrl-C ends those that run, too."""
        try:
            self._pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            for process in active_children():
                process.terminate()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_scene(rig: Rig, job: Job, scene: int) -> Rollout:
    """One scene on a fresh rig, in this process; recorded, measured, kept if the job says so.

    Raises:
        PolicyError: it could not be run. All errors become this one, which survives the way
            from one process to another.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".scene-", dir=job.out) as folder:
            one = replace(job, episodes=1, first_episode=scene, out=Path(folder))
            [result] = run_lockstep(rig, one).results
            if not result.path:
                raise PolicyError(f"nothing was recorded: {', '.join(result.reasons)}")
            motion = motion_of(result.path)
            kept = None
            if job.out is not None:
                kept = Path(result.path).replace(episode_path(job.out, scene))
            return Rollout(scene, replace(result, index=scene, path=str(kept or "")), motion)
    except TandemError as error:
        raise PolicyError(f"scene {scene}: {error}") from None


def check_free(out: Path, scenes: Sequence[int]) -> None:
    """Make the folder; no scene's episode may be there already.

    Raises:
        PolicyError: naming the first that is.
    """
    out.mkdir(parents=True, exist_ok=True)
    taken = [scene for scene in scenes if episode_path(out, scene).exists()]
    if taken:
        raise PolicyError(
            f"{episode_path(out, taken[0])} exists already; name another folder with --out"
        )


@contextmanager
def _threads_of_children() -> Iterator[None]:
    """Processes started in this context get one thread: it is read when numpy is imported."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(THREADS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of the terminal; the parent alone ends the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
