"""Which episodes, and which of their rows, a policy learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recorder.episode import Episode, find_episodes
from recorder.quality import Level
from teleop.errors import PolicyError
from teleop.messages import FloatArray

Outcome = Literal["success", "failure", "unknown"]

LEARNED_OUTCOMES: tuple[Outcome, ...] = ("success",)
"""A policy repeats what it is shown; nobody has said of an unlabelled episode that it is right."""
LEARNED_VERDICTS: tuple[Level, ...] = ("pass", "warn")
"""A failed verdict means samples that are missing, late or wrong."""
WRAP_RAD = np.pi
"""No joint gets so far in one row: an angle that jumps more was counted past its end."""

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """Episodes to learn from; an episode must be admitted by every one of these."""

    outcomes: tuple[Outcome, ...] = LEARNED_OUTCOMES
    """Episodes to learn from, by what the operator said of them."""
    verdicts: tuple[Level, ...] = LEARNED_VERDICTS
    """Episodes to learn from, by what the recorder said of their quality."""
    operators: tuple[str, ...] | None = None
    """Episodes to learn from, by who made them; everyone's when not given."""
    tags: tuple[str, ...] | None = None
    """Episodes that bear at least one of these tags; all when not given."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One data set of a mixture."""

    path: Path
    weight: float = 1.0
    """How often a window of it is drawn, next to the windows of other folders."""

    @classmethod
    def parse(cls, text: str) -> Folder:
        """From ``DIR`` or ``DIR=WEIGHT``.

        Raises:
            PolicyError: the weight is not a number above 0.
        """
        if Path(text).is_dir():
            return cls(Path(text))
        path, equals, weight = text.rpartition("=")
        if not equals:
            return cls(Path(text))
        try:
            number = float(weight)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise PolicyError(
                f"--data {text}: the weight {weight!r} is not a number above 0; "
                "write DIR or DIR=WEIGHT"
            )
        return cls(Path(path), number)


@dataclass(frozen=True, slots=True)
class Selected:
    """The episodes that were chosen."""

    paths: tuple[Path, ...]
    weights: tuple[float, ...]
    """Of each path's folder."""
    found: int
    """Episodes that there are in all."""
    reasons: tuple[str, ...]
    """How many were left out for what, such as ``3 failure outcome``."""

    @property
    def left_out(self) -> str:
        """One sentence; empty when none was left out."""
        left = self.found - len(self.paths)
        if not left:
            return ""
        return f"left out {left} of {self.found} episodes: {', '.join(self.reasons)}"


def select(folders: Sequence[Folder], choice: Choice) -> Selected:
    """Episodes to learn from, and what was left out and why.

    Raises:
        PolicyError: a folder without episodes, or none is left.
        EpisodeError: no such folder, or a file that is no episode.
    """
    paths: list[Path] = []
    weights: list[float] = []
    found = 0
    refused: Counter[tuple[str, str]] = Counter()
    for folder in folders:
        there = find_episodes(folder.path)
        if not there:
            raise PolicyError(
                f"{folder.path}: no episodes; record some with 'tandem record' "
                "or name another folder"
            )
        found += len(there)
        for path in there:
            with Episode(path) as episode:
                reason = _reason(episode, choice)
            if reason is None:
                paths.append(path)
                weights.append(folder.weight)
            else:
                refused[reason] += 1
    reasons = tuple(
        f"{count} {_words(kind, value)}"
        for (kind, value), count in sorted(refused.items(), key=lambda item: item[0])
    )
    if not paths:
        where = ", ".join(str(folder.path) for folder in folders)
        raise PolicyError(
            f"{where}: no episode to learn from among {found}: {', '.join(reasons)}; "
            f"{_admit(refused, choice)} to admit them"
        )
    return Selected(tuple(paths), tuple(weights), found, reasons)


def _reason(episode: Episode, choice: Choice) -> tuple[str, str] | None:
    """Which option refuses an episode, and its value there; None when all admit it."""
    if episode.outcome not in choice.outcomes:
        return "outcomes", episode.outcome
    if episode.verdict.level not in choice.verdicts:
        return "verdicts", episode.verdict.level
    if choice.operators is not None and episode.operator not in choice.operators:
        return "operators", episode.operator
    if choice.tags is not None and set(choice.tags).isdisjoint(episode.tags):
        return "tags", " ".join(episode.tags)
    return None


def _words(kind: str, value: str) -> str:
    match kind:
        case "outcomes":
            return f"{value} outcome"
        case "verdicts":
            return f"verdict {value}"
        case "operators":
            return f"by operator {value!r}" if value else "operator not recorded"
        case _:
            return f"with other tags ({value})" if value else "without tags"


def _admit(refused: Counter[tuple[str, str]], choice: Choice) -> str:
    """Options that would let the refused episodes in."""
    hints = []
    for kind in ("outcomes", "verdicts"):
        more = sorted(value for found, value in refused if found == kind)
        if more:
            hints.append(f"give --{kind} {' '.join([*getattr(choice, kind), *more])}")
    for kind in ("operators", "tags"):
        if any(found == kind for found, _ in refused):
            hints.append(f"leave --{kind} out")
    return " and ".join(hints)


def check_wrap(qpos: FloatArray, names: Sequence[str], what: str, episode: str) -> None:
    """Refuse joint angles that jump from one end of their circle to the other.

    Args:
        qpos: Shape (T, D), rad; gripper openings cannot jump so far.
        names: Of the columns.
        what: ``qpos`` or ``action``.
        episode: Name of the file.

    Raises:
        PolicyError: a column jumps by more than pi within one row.
    """
    jumps = np.abs(np.diff(qpos, axis=0)) > WRAP_RAD
    if jumps.any():
        row, column = (int(i) for i in np.argwhere(jumps)[0])
        raise PolicyError(
            f"{episode}: {what} of {names[column]} jumps from {qpos[row, column]:.2f} to "
            f"{qpos[row + 1, column]:.2f} rad at row {row + 1}: the angle wraps; correct that "
            "joint's zero in the calibration and leave this episode out"
        )


def idle_rows(actions: FloatArray, rows: int, reach: float) -> Flags:
    """Rows that belong to a pause, (T,).

    A pause is a run of at least ``rows`` rows during which no column leaves a band. openpi
    drops runs of at least 7 rows at 15 Hz in which no commanded joint velocity changes; our
    actions are positions, so a pause is told by how far they get.

    Args:
        actions: Shape (T, A).
        rows: Shortest pause.
        reach: Width of the band; rad, gripper opening.
    """
    idle = np.zeros(len(actions), bool)
    rows = max(2, rows)
    if len(actions) < rows:
        return idle
    runs = np.lib.stride_tricks.sliding_window_view(actions, rows, axis=0)  # (T-rows+1, A, rows)
    still = (runs.max(-1) - runs.min(-1) <= reach).all(1)
    for row in range(rows):
        idle[row : row + len(still)] |= still
    return idle
