"""An episode for people: a summary in text, and one picture of everything."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recorder.episode import Episode, StreamView, find_episodes
from recorder.schema import PARTIAL_SUFFIX, Flag
from teleop import topics
from teleop.errors import EpisodeError, MissingExtraError

SHEET_FRAMES = 6
"""Images per camera in the contact sheet."""
LATENCY_BIN_S = 0.1
LATENCY_KINDS = {
    "arm state": "arm/*/state",
    "arm command": "arm/*/command",
    "applied": "arm/*/applied",
    "camera": "camera/*",
}
NS_PER_MS = 1e6


def summary(path: Path | str) -> str:
    """What an operator wants to know of an episode, as lines of text.

    Streams that had nothing to say, such as a policy's in teleoperation, are left out. Of a
    folder of episodes: one line for each.

    Raises:
        EpisodeError: the file is not a readable episode, or the folder holds none.
    """
    path = Path(path)
    if path.is_dir() and path.suffix != PARTIAL_SUFFIX:
        return "\n".join(_lines(path))
    with Episode(path) as episode:
        return "\n".join([*_head(episode), *_tracking(episode), "", *_stream_table(episode)])


def _lines(folder: Path) -> list[str]:
    """One line per episode of a folder."""
    paths = find_episodes(folder)
    if not paths:
        raise EpisodeError(f"{folder}: holds no episode")
    return [_line(path) for path in paths]


def _line(path: Path) -> str:
    try:
        with Episode(path) as episode:
            return (
                f"{path.name}  {episode.task:20} {episode.outcome:8} {episode.verdict.level:5}"
                f"{episode.seconds:7.1f} s {episode.length:6d} rows"
                f"{len(episode.verdict.reasons):4d} reasons"
            )
    except EpisodeError as error:
        return f"{path.name}  unreadable: {error}"  # and the others are still listed


def _head(episode: Episode) -> Iterator[str]:
    size_mb = episode.path.stat().st_size / 1e6
    yield f"{episode.path}  {size_mb:.1f} MB"
    yield f"task      {episode.task}: {episode.instruction}"
    yield f"outcome   {episode.outcome}"
    yield f"recorded  {episode.wall_start} on {episode.backend}"
    yield f"length    {episode.seconds:.2f} s, {episode.length} rows at {episode.row_hz:g} Hz"
    yield f"columns   {', '.join(episode.joint_names)}"
    yield f"verdict   {episode.verdict.level}"
    yield from (f"          - {reason}" for reason in episode.verdict.reasons)


def _tracking(episode: Episode) -> Iterator[str]:
    """How far each follower was from what its limits let through, and how old that was."""
    if episode.length == 0:
        return
    off = np.abs(episode.action - episode.qpos)
    for arm in episode.arms:
        columns = [i for i, name in enumerate(episode.joint_names) if name.startswith(f"{arm}/")]
        errors = ", ".join(
            f"{episode.joint_names[i].split('/')[1]} "
            f"{np.sqrt(np.nanmean(off[:, i] ** 2)):.3f}/{np.nanmax(off[:, i]):.3f}"
            for i in columns
        )
        yield f"tracking  {arm}, |command - measured| rms/max rad (gripper 0..1): {errors}"
        applied = episode.stream(f"arm/{arm}/applied")
        origin = applied["origin_ns"]
        _, first = np.unique(origin, return_index=True)
        first = first[origin[first] > 0]
        if len(first):
            age = (applied.stamp_ns[first] - origin[first]) / NS_PER_MS
            p50, p99 = (_percentile(age, percent) for percent in (50, 99))
            acted = topics.POLICY_CHUNK in episode.streams and len(
                episode.stream(topics.POLICY_CHUNK)
            )
            read = "observation" if acted else "reading"
            yield f"latency   {arm}, {read} to command written: p50 {p50} ms, p99 {p99} ms"


def _stream_table(episode: Episode) -> Iterator[str]:
    yield (
        f"{'stream':34} {'samples':>8} {'Hz':>7} {'of':>6} {'lost':>5} "
        f"{'latency ms p50':>14} {'p99':>6} {'flagged rows':>13}"
    )
    for name in episode.streams:
        view = episode.stream(name)
        if len(view) == 0 and not view.required:
            continue
        rate, nominal = episode.rates_hz.get(name), view.nominal_hz
        latency = _latency_ms(view)
        yield (
            f"{name:34} {len(view):8d} {_number(rate):>7} {_number(nominal):>6} "
            f"{episode.gaps.get(name, 0):5d} {_percentile(latency, 50):>14} "
            f"{_percentile(latency, 99):>6} {_flagged(episode, name):>13}"
        )


def _latency_ms(view: StreamView) -> Any:
    return (view.arrival_ns - view.stamp_ns) / NS_PER_MS


def _number(value: float | None) -> str:
    return "-" if not value else f"{value:.1f}"


def _percentile(values: Any, percent: float) -> str:
    return "-" if len(values) == 0 else f"{np.percentile(values, percent):.1f}"


def _flagged(episode: Episode, name: str) -> str:
    if not episode.on_rows(name) or len(episode.stream(name)) == 0:
        return "-"
    flags = episode.flags(name)
    parts = [
        f"{int(((flags & flag) != 0).sum())} {(flag.name or '').lower()}"
        for flag in Flag
        if ((flags & flag) != 0).any()
    ]
    return ", ".join(parts) or "0"


def write_picture(path: Path | str, out: Path | str) -> Path:
    """Draw contact sheet, joints against commands, latencies, and gaps into one image file.

    Args:
        path: The episode.
        out: Image file, its kind by its suffix.

    Returns:
        ``out``.

    Raises:
        EpisodeError: the file is not a readable episode.
        MissingExtraError: matplotlib is not installed.
    """
    figure_of = _matplotlib()
    with Episode(path) as episode:
        sheets = len(episode.cameras)
        columns = max(1, -(-len(episode.joint_names) // 7))
        figure = figure_of(figsize=(14, 1.8 * sheets + 15))
        heights = [1.8 * max(sheets, 0.1), 9, 3, 2]
        sheet, joints, latency, gaps = figure.subfigures(4, 1, height_ratios=heights)
        figure.suptitle(f"{episode.path.name}  {episode.task}  verdict {episode.verdict.level}")
        _draw_sheet(sheet, episode)
        _draw_joints(joints, episode, columns)
        _draw_latency(latency.subplots(), episode)
        _draw_gaps(gaps.subplots(), episode)
        figure.savefig(out, dpi=80)
    return Path(out)


def _matplotlib() -> Callable[..., Any]:
    """Figure with its own canvas: no window system, no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "the picture of an episode") from error

    def figure_of(**options: Any) -> Any:
        figure = Figure(layout="constrained", **options)
        FigureCanvasAgg(figure)
        return figure

    return figure_of


def _seconds(episode: Episode, stamp_ns: Any) -> Any:
    return (stamp_ns - episode.start_ns) / 1e9


def _span(axis: Any, episode: Episode) -> None:
    """The whole episode, so that the panels can be read one above the other."""
    axis.set_xlim(0, max(episode.seconds, 0.1))


def _draw_sheet(panel: Any, episode: Episode) -> None:
    if not episode.cameras or episode.length == 0:
        return
    rows = np.unique(np.linspace(0, episode.length - 1, SHEET_FRAMES).astype(int))
    axes = panel.subplots(len(episode.cameras), len(rows), squeeze=False)
    for line, camera in zip(axes, episode.cameras, strict=True):
        for axis, row in zip(line, rows, strict=True):
            axis.set_axis_off()
            if episode.index(f"camera/{camera}")[row] >= 0:
                axis.imshow(episode.image(camera, int(row)))
            at_s = _seconds(episode, episode.rows_stamp_ns[row])
            axis.set_title(f"{camera}  {at_s:.1f} s", fontsize=7)


def _draw_joints(panel: Any, episode: Episode, columns: int) -> None:
    lines = -(-len(episode.joint_names) // columns)
    if lines == 0:
        return
    axes = panel.subplots(lines, columns, squeeze=False, sharex=True)
    time_s = _seconds(episode, episode.rows_stamp_ns)
    for j, name in enumerate(episode.joint_names):
        axis = axes[j % lines][j // lines]
        axis.plot(time_s, episode.action[:, j], lw=0.8, label="command")
        axis.plot(time_s, episode.qpos[:, j], lw=0.8, label="measured")
        axis.set_ylabel(name.replace("/", "\n"), fontsize=6, rotation=0, ha="right")
        axis.tick_params(labelsize=6)
    axes[0][0].legend(fontsize=6, loc="upper right")
    _span(axes[0][0], episode)


def _draw_latency(axis: Any, episode: Episode) -> None:
    """One line per kind of stream: the worst of its streams in each tenth of a second."""
    bins = np.arange(int(episode.seconds / LATENCY_BIN_S) + 1)
    for kind, pattern in LATENCY_KINDS.items():
        worst_ms = np.full(len(bins), np.nan)
        for name in fnmatch.filter(episode.streams, pattern):
            view = episode.stream(name)
            bin_of = (_seconds(episode, view.arrival_ns) // LATENCY_BIN_S).astype(int)
            within = (bin_of >= 0) & (bin_of < len(bins))
            np.fmax.at(worst_ms, bin_of[within], _latency_ms(view)[within])
        axis.plot((bins + 0.5) * LATENCY_BIN_S, worst_ms, lw=0.8, label=kind)
    axis.set_ylabel("capture to recorder,\nworst of all, ms", fontsize=7)
    axis.tick_params(labelsize=6)
    axis.legend(fontsize=6, loc="upper right")
    _span(axis, episode)


def _draw_gaps(axis: Any, episode: Episode) -> None:
    """One line per stream of the rows, a mark at each flagged row."""
    names = [name for name in episode.streams if episode.on_rows(name)]
    names = [name for name in names if episode.stream(name).nominal_hz is not None]
    time_s = _seconds(episode, episode.rows_stamp_ns)
    flagged_rows = {name: episode.flags(name) != 0 for name in names}
    for level, flagged in enumerate(flagged_rows.values()):
        axis.plot(time_s[flagged], np.full(int(flagged.sum()), level), "|", ms=5, color="C3")
    axis.set_yticks(range(len(names)), names, fontsize=6)
    axis.set_ylim(-0.5, max(len(names) - 0.5, 0.5))
    if not any(flagged.any() for flagged in flagged_rows.values()):
        axis.text(0.5, 0.5, "no flags", transform=axis.transAxes, ha="center", va="center")
    _span(axis, episode)
    axis.set_xlabel("s   (marks: rows with a missing, stale, repeated, lost or frozen sample)")
    axis.tick_params(labelsize=6)
