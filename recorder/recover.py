"""Finishing episodes whose recorder was killed, lost power, or ran out of disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from recorder import schema
from recorder.builder import Built, build
from recorder.episode import Episode
from recorder.meta import Meta
from recorder.recording import FolderLock
from teleop.clock import MonotonicClock, ns_from_s
from teleop.errors import EpisodeError, RecordingError, TandemError

LOCK_PATIENCE_S = 3.0
LOCK_RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was done about one left-over."""

    source: Path
    path: Path | None
    """The finished episode; None when there is none."""
    words: str
    """What was found, made and lost: one line for the operator."""
    ok: bool = True
    """False when something is left that needs a person."""


def recover(folder: Path) -> list[str]:
    """Finish every cut-off episode of a folder; one line per left-over for the operator."""
    return [found.words for found in finish_left_overs(folder)]


def finish_left_overs(folder: Path) -> list[Recovered]:
    """Finish every cut-off episode of a folder; doing it again changes nothing.

    Folders that a living recorder is writing are left alone.

    Raises:
        EpisodeError: there is no such folder.
    """
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such folder of episodes")
    done = [_recover_one(path) for path in sorted(folder.glob(f"*{schema.PARTIAL_SUFFIX}"))]
    for path in sorted(folder.glob(f"*{schema.DISCARDED_SUFFIX}")):
        shutil.rmtree(path)
        done.append(Recovered(path, None, f"{path.name}: was discarded, now deleted"))
    for path in sorted(folder.glob(f"*{schema.TEMPORARY_SUFFIX}")):
        stem = path.name.removesuffix(schema.TEMPORARY_SUFFIX)
        if not path.with_name(stem + schema.PARTIAL_SUFFIX).exists():
            words = (
                f"{path.name}: unfinished file without its recording; nothing to rebuild it from"
            )
            done.append(Recovered(path, None, words, ok=False))
    return done


def _recover_one(folder: Path) -> Recovered:
    target = folder.with_suffix(schema.EPISODE_SUFFIX)
    try:
        lock = _lock_of(folder)
    except RecordingError as error:
        return Recovered(folder, None, str(error), ok=False)
    try:
        if target.exists():
            if not _is_same(folder, target):
                words = f"{target} is another episode than {folder}; move it away and try again"
                return Recovered(folder, None, words, ok=False)
            # the file gets its name only when complete: the folder was being deleted
            shutil.rmtree(folder)
            return Recovered(folder, target, f"{target.name}: was complete already")
        if not (folder / schema.META_NAME).exists():
            return _drop_empty(folder)
        built = build(folder, target, recovered=True)
        shutil.rmtree(folder)
    except (TandemError, OSError) as error:
        return Recovered(folder, None, str(error), ok=False)
    finally:
        lock.release()
    return Recovered(folder, target, _describe(built))


def _is_same(folder: Path, target: Path) -> bool:
    """Whether a finished file was made from these journals.

    Raises:
        EpisodeError: the file is no episode.
    """
    if not (folder / schema.META_NAME).exists():
        return True  # written first of all, so what is left of the folder was being deleted
    meta = Meta.read(folder)
    with Episode(target) as episode:
        return (episode.start_ns, episode.wall_start) == (meta.start_ns, meta.wall_start)


def _lock_of(folder: Path) -> FolderLock:
    """The folder's lock, waiting a little for it.

    A recorder that was killed a moment ago holds it until the disk has taken what its sync
    thread was forcing out.

    Raises:
        RecordingError: a living recorder holds it.
    """
    clock = MonotonicClock()
    deadline_ns = clock.now_ns() + ns_from_s(LOCK_PATIENCE_S)
    while True:
        try:
            return FolderLock(folder)
        except RecordingError:
            now_ns = clock.now_ns()
            if now_ns > deadline_ns:
                raise
            clock.sleep_until_ns(now_ns + ns_from_s(LOCK_RETRY_S))


def _drop_empty(folder: Path) -> Recovered:
    """A recorder was killed between making the folder and describing the episode."""
    leftovers = [p.name for p in folder.iterdir() if p.name != f"{schema.META_NAME}.tmp"]
    if leftovers:
        words = f"{folder}: holds {', '.join(leftovers)} but no {schema.META_NAME}; left alone"
        return Recovered(folder, None, words, ok=False)
    shutil.rmtree(folder)
    return Recovered(folder, None, f"{folder.name}: recording had not begun; empty folder deleted")


def _describe(built: Built) -> str:
    lost = sum(built.lost_bytes.values())
    what = "nothing that was written is lost"
    if lost:
        torn = ", ".join(sorted(built.lost_bytes))
        what = f"lost {lost} bytes of a last, torn message of {torn}"
    return (
        f"{built.path.name}: recovered {built.seconds:.1f} s, {built.row_count} rows, "
        f"verdict {built.verdict.level}; {what}"
    )
