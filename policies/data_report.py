"""What training will see, in words: the dry run of ``tandem train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.normalisation import STD_FLOOR, ColumnStatistics, Statistics
from policies.policy import OBJECT_POSE, ExtraInput, ObservationContract
from policies.windows import Rows, WindowSet
from teleop.messages import FloatArray

CHUNK_S = (0.5, 2.0)
"""Chunks that work on arms of this size last so long: ACT's take 2 s, pi0's 1 s."""


@dataclass(frozen=True)
class Column:
    """Range of one column over the training windows."""

    name: str
    unit: str
    low: float
    high: float
    std: float
    """As measured, also where normalising divides by ``STD_FLOOR`` instead."""

    @property
    def constant(self) -> bool:
        """Whether it hardly moves."""
        return self.std < STD_FLOOR


@dataclass(frozen=True)
class DataReport:
    """Everything worth knowing before hours are spent on training."""

    facts: tuple[tuple[str, str], ...]
    """What, and how much or which, in words."""
    state: tuple[Column, ...]
    actions: tuple[Column, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was said already while the data was read."""

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{name:<{width}}  {value}" for name, value in self.facts]
        for title, columns in (("state", self.state), ("action", self.actions)):
            lines += ["", *_table(title, columns)]
        if told := (*self.notes, *self.warnings):
            lines += ["", *(f"warning: {warning}" for warning in told)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Counted:
    """What was counted while the data was read."""

    found: int
    """Episodes in the folders."""
    trained: int
    held: int
    left_out: str
    """Episodes left out and why."""
    unseen_rows: int
    """Rows before everything that the policy sees had arrived."""
    idle_rows: int
    """Rows in pauses, where no window begins."""
    seconds: float
    """Of all episodes that were chosen."""
    cached: bool
    """Whether frames lie in files."""
    notes: tuple[str, ...]
    """Further sentences."""


def describe(
    contract: ObservationContract,
    statistics: Statistics,
    train: WindowSet,
    validation: WindowSet | None,
    counted: Counted,
    rows: Sequence[Rows],
    blind: bool = False,
) -> DataReport:
    """The report on data that has been loaded.

    Args:
        contract: Of the policy.
        statistics: Of ``train``.
        train: Windows to learn from.
        validation: Windows held back.
        counted: While the data was read.
        rows: What ``train`` was made of.
        blind: Whether to see joint positions only was asked for.
    """
    names = state_columns(contract.joint_names, contract.extras)
    seen = np.concatenate([part.state[part.first :] for part in rows])
    shown = np.concatenate([part.actions[part.first :] for part in rows])
    state = _columns(names, statistics.state, seen)
    actions = _columns(contract.joint_names, statistics.action, shown)
    chunk_s = contract.chunk_rows / contract.row_hz
    return DataReport(
        facts=tuple(_facts(contract, train, validation, counted, chunk_s)),
        state=state,
        actions=actions,
        warnings=tuple(_warnings(contract, actions, chunk_s, blind)),
        notes=counted.notes,
    )


def _warnings(
    contract: ObservationContract, actions: Sequence[Column], chunk_s: float, blind: bool
) -> list[str]:
    """What is probably not meant so."""
    warnings = []
    if not (contract.cameras or contract.extras or blind):
        warnings.append("no camera and no object pose: the policy sees joint positions only")
    warnings += [
        f"images of {view.name} are enlarged from {view.source_height}x{view.source_width} to "
        f"{view.height}x{view.width} pixels, which shows nothing more; give a smaller --image-size"
        for view in contract.cameras
        if view.height > view.source_height or view.width > view.source_width
    ]
    if contract.chunk_rows > 1 and not CHUNK_S[0] <= chunk_s <= CHUNK_S[1]:
        low, high = (round(limit * contract.row_hz) for limit in CHUNK_S)
        warnings.append(
            f"a chunk of {contract.chunk_rows} rows lasts {chunk_s:.2f} s; arms are usually given "
            f"{CHUNK_S[0]:g} to {CHUNK_S[1]:g} s, here {low} to {high} rows"
        )
    if all(column.constant for column in actions):
        warnings.append("no column of the actions moves: there is nothing to learn here")
    still = [column.name for column in actions if column.constant]
    if still and len(still) < len(actions):
        warnings.append(f"constant columns of the actions: {', '.join(still)}")
    return warnings


def state_columns(joint_names: Sequence[str], extras: Sequence[ExtraInput]) -> tuple[str, ...]:
    """Names of the columns of the state, S: the joints, then the further inputs."""
    further = [f"{extra.name}[{i}]" for extra in extras for i in range(extra.size)]
    return (*joint_names, *further)


def _facts(
    contract: ObservationContract,
    train: WindowSet,
    validation: WindowSet | None,
    counted: Counted,
    chunk_s: float,
) -> list[tuple[str, str]]:
    batch = train.windows(np.zeros(1, np.int64))
    held = 0 if validation is None else len(validation)
    stored = "files, read when needed" if counted.cached else "memory"
    facts = [
        ("episodes", f"{counted.trained} to learn from, {counted.held} held back"),
        ("left out", counted.left_out.removeprefix("left out ") or f"none of {counted.found}"),
        ("length", f"{counted.seconds:.1f} s in all"),
        ("tasks", ", ".join(contract.tasks)),
        ("rate", f"{contract.row_hz:g} rows per second"),
        ("history", f"{contract.history} observations, {contract.history_stride} rows apart"),
        ("chunk", f"{contract.chunk_rows} rows, {chunk_s:.2f} s"),
        ("windows", f"{len(train)} to learn from, {held} held back"),
        (
            "not begun",
            f"at {counted.idle_rows} rows in pauses, {counted.unseen_rows} rows before "
            "everything had arrived",
        ),
        ("state", f"{batch.state.shape[1:]} per sample, float32"),
        ("actions", f"{batch.actions.shape[1:]} per sample, float32"),
    ]
    facts += [
        (
            f"camera {view.name}",
            f"{view.height}x{view.width} out of {view.source_height}x{view.source_width} pixels, "
            f"{view.fps:g} fps, uint8",
        )
        for view in contract.cameras
    ]
    if contract.text is not None:
        facts.append(("text", f"{contract.text.size} numbers by {contract.text.encoder!r}"))
    sets = [train] if validation is None else [train, validation]
    rows, frames = (sum(part[i] for part in (s.bytes() for s in sets)) for i in (0, 1))
    facts.append(("memory", f"{_size(rows)} of rows in memory"))
    if contract.cameras:
        facts.append(("frames", f"{_size(frames)} in {stored}"))
    return facts


def _columns(
    names: Sequence[str], statistics: ColumnStatistics, table: FloatArray
) -> tuple[Column, ...]:
    """Columns of a table of shape (N, C)."""
    return tuple(
        Column(
            name,
            _unit(name),
            statistics.low[i],
            statistics.high[i],
            std if std > STD_FLOOR else min(float(np.nanstd(table[:, i])), STD_FLOOR),
        )
        for i, (name, std) in enumerate(zip(names, statistics.std, strict=True))
    )


def _unit(name: str) -> str:
    if name.endswith("/gripper"):
        return "opening"
    if name.startswith(OBJECT_POSE):
        place = int(name.removeprefix(OBJECT_POSE).strip("[]")) % 7
        return "m" if place < 3 else "1"
    return "rad"


def _table(title: str, columns: Sequence[Column]) -> list[str]:
    width = max([len(title), *(len(column.name) for column in columns)])
    head = f"{title:<{width}}  {'unit':<7}  {'low':>8}  {'high':>8}  {'std':>7}"
    return [
        head,
        *(
            f"{c.name:<{width}}  {c.unit:<7}  {c.low:>8.3f}  {c.high:>8.3f}  {c.std:>7.3f}"
            f"{'  constant' if c.constant else ''}"
            for c in columns
        ),
    ]


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
