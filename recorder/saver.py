"""Finishing episodes behind the recorder's back, one after the other."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recorder.builder import Built, build, room_needed
from recorder.recording import Recording, discard
from teleop.errors import TandemError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a stopped recording."""

    episode: int
    """Index within the session."""
    task: str
    kept_at: Path
    """The finished file, or the folder of journals when it could not be finished."""
    built: Built | None
    error: str = ""
    cut_short: str = ""
    discarded: bool = False


class Saver:
    """Builds episodes in a background thread, or at once when that would not be repeatable.

    Args:
        in_background: False in lockstep, where the instant of "saved" must be the same in
            every run.
    """

    def __init__(self, in_background: bool) -> None:
        self._pool = ThreadPoolExecutor(1, "episode-saver") if in_background else None
        self._pending: dict[int, Future[Saved]] = {}
        self._sizes: dict[int, int] = {}
        self._kept: dict[int, Path] = {}
        self._doomed: set[int] = set()

    def save(self, recording: Recording) -> None:
        """Take over a stopped recording."""
        if self._pool is not None:
            future = self._pool.submit(_finish, recording)
            # behind it, so that "saved" does not wait for the deletion
            self._pool.submit(_clean_up, recording, future)
        else:
            future = Future()
            future.set_result(_finish(recording))
            _clean_up(recording, future)
        self._pending[recording.meta.episode] = future
        self._sizes[recording.meta.episode] = recording.bytes

    def finished(self) -> list[Saved]:
        """Episodes that were finished since the last call; discarded ones are gone by then."""
        done = []
        for episode in [e for e, future in self._pending.items() if future.done()]:
            saved = self._pending.pop(episode).result()
            del self._sizes[episode]
            self._kept[episode] = saved.kept_at
            if episode in self._doomed:
                self.discard(episode)
                saved = Saved(episode, saved.task, saved.kept_at, saved.built, discarded=True)
            done.append(saved)
        return done

    def discard(self, episode: int) -> Path | None:
        """Delete a saved episode, at once or as soon as it is finished.

        Returns:
            What was deleted; None when that is still to come or there is no such episode.

        Raises:
            OSError: it cannot be deleted.
        """
        if episode in self._pending:
            self._doomed.add(episode)
            return None
        path = self._kept.pop(episode, None)
        if path is None:
            return None
        if path.is_dir():
            discard(path)
        else:
            path.unlink(missing_ok=True)
        return path

    @property
    def bytes_needed(self) -> int:
        """Disk space that the episodes under way may still take."""
        return sum(room_needed(size) for size in self._sizes.values())

    @property
    def busy(self) -> bool:
        """Whether an episode is still being saved."""
        return bool(self._pending)

    def close(self) -> list[Saved]:
        """Wait for the episodes under way and return them."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        return self.finished()


def _finish(recording: Recording) -> Saved:
    """Build one episode; whatever goes wrong, its folder is kept and let go of."""
    meta = recording.meta

    def saved(kept_at: Path, built: Built | None, error: str = "") -> Saved:
        return Saved(meta.episode, meta.task, kept_at, built, error, recording.cut_short)

    try:
        recording.stop()
        built = build(recording.folder, recording.target, cut_short=recording.cut_short)
    except (TandemError, OSError) as error:
        return saved(recording.folder, None, str(error))
    except Exception as error:
        # a fault of ours must not end the recorder, which may be in the next episode by now
        log.exception("%s cannot be finished", recording.folder)
        return saved(recording.folder, None, f"{recording.folder} cannot be finished: {error!r}")
    return saved(built.path, built)


def _clean_up(recording: Recording, future: Future[Saved]) -> None:
    """Delete the journals of a finished episode and let go of an unfinished one."""
    try:
        if future.result().built is not None:
            shutil.rmtree(recording.folder)
    except OSError as error:
        log.warning("%s cannot be deleted: %s", recording.folder, error)
    finally:
        recording.lock.release()
