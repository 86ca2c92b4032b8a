"""The node that listens to everything and writes episodes; it commands nothing.

It obeys ``session/event``: ``start`` opens an episode or is refused with the reason, ``stop``
closes it (saving runs behind, the next one may start at once), ``discard`` deletes it. An
event that is said again is answered again and otherwise ignored. What becomes of each episode
is told on ``recorder/event``:

- ``started``: detail is the folder of journals;
- ``stopped``: nothing more is recorded, saving has begun;
- ``refused``: a start or a stop is not obeyed, detail is why;
- ``saved``: detail is JSON with ``path``, ``verdict``, ``reasons``, ``rows`` and ``seconds``;
- ``failed``: recording or saving broke off, detail says what happened and what is kept where;
- ``note``: an episode was discarded, or a cut-off one was finished after all.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from recorder.builder import free_bytes, room_needed
from recorder.liveness import Watch
from recorder.meta import Meta, Origin, StreamPlan, software_version
from recorder.recording import Recording, discard
from recorder.saver import Saved, Saver
from teleop import topics
from teleop.addresses import nominal_rate_hz, topics_of
from teleop.clock import NS_PER_S, ns_from_s
from teleop.errors import RecordingError, UnknownNameError
from teleop.messages import EpisodeEvent
from teleop.node import Inputs, NodeContext, NodeHealth, NodePlan, Outputs, Received, Sequencer
from teleop.rig import Rig
from teleop.topics import Queue

log = logging.getLogger(__name__)

TICKS_PER_MESSAGE = 2
"""Steps per period of the fastest stream; bounds how late an arrival stamp can be."""


class RecorderNode:
    """See the module.

    Args:
        name: Of the node.
        rig: What is recorded, at which rates, and where the limits of a good episode are.
        out: Folder of the episodes; created at the first start.
        task: A task of the rig; its cameras are the required ones.
        operator: Name stored in each episode.
        calibration: Snapshot of the calibration results, stored in each episode.
        origin: Job and emulated scene, stored in each episode.
        now_ns: The present time.
        max_seconds: Longest episode of the job; None for the task's own.

    Raises:
        UnknownNameError: the rig has no such task.
    """

    def __init__(
        self,
        name: str,
        rig: Rig,
        out: Path,
        task: str,
        operator: str,
        calibration: dict[str, Any],
        origin: Origin,
        now_ns: int,
        max_seconds: float | None = None,
    ) -> None:
        if task not in rig.tasks:
            raise UnknownNameError("task", task, rig.tasks)
        self.name = name
        self._rig = rig
        self._out = out
        self._task = task
        self._operator = operator
        self._calibration = calibration
        self._origin = origin
        self._longest_s = max_seconds or rig.tasks[task].max_seconds
        # looked up once: a start must be quick
        self._version = software_version()
        self._rig_content = rig.model_dump(mode="json")
        self._ended: set[int] = set()
        self._streams = plan_streams(rig, task)
        self._topics = frozenset(plan.topic for plan in self._streams)
        self._watch = Watch(self._streams, now_ns)
        self._saver = Saver(in_background=rig.backend != "lockstep")
        self._recording: Recording | None = None
        self._seq = Sequencer()
        fastest_hz = max([rig.rates.row_hz, *(p.nominal_hz or 0.0 for p in self._streams)])
        self.plan = NodePlan(
            period_ns=ns_from_s(1 / (TICKS_PER_MESSAGE * fastest_hz)),
            subscriptions=dict.fromkeys(sorted(self._topics), Queue.ALL),
            publications=(topics.RECORDER_EVENT,),
        )

    def step(self, inputs: Inputs, now_ns: int) -> Outputs:
        """Write what arrived and obey the session."""
        out: Outputs = []
        taken_ns = -1
        for event in inputs.received(topics.SESSION_EVENT):
            self._take(inputs, taken_ns, event.arrival_ns, now_ns, out)
            taken_ns = event.arrival_ns
            self._append_event(event, now_ns, out)
            message = cast(EpisodeEvent, event.message)
            if message.kind == "stop" and self._is_current(message):
                self._take_stops(inputs, event, now_ns, out)
            self._obey(message, event, now_ns, out)
        self._take(inputs, taken_ns, now_ns, now_ns, out)
        if self._watch.tick(now_ns) and self._recording is not None:
            self._check_disk(now_ns, out)
        for saved in self._saver.finished():
            out.append(self._report(saved, now_ns))
        return out

    def _take(
        self, inputs: Inputs, after_ns: int, until_ns: int, now_ns: int, out: Outputs
    ) -> None:
        """Note, and while recording write, what arrived in this span of time."""
        for topic in inputs.topics():
            if topic not in self._topics or topic == topics.SESSION_EVENT:
                continue
            for received in inputs.received(topic):
                if after_ns < received.arrival_ns <= until_ns:
                    self._watch.hear(topic, received)
                    self._append(topic, received, now_ns, out)

    def _take_stops(self, inputs: Inputs, event: Received, now_ns: int, out: Outputs) -> None:
        """Write the emergency stop that ends an episode: said with the event, read after it."""
        for stop in inputs.received(topics.SESSION_STOP):
            said_with_it = stop.message.stamp_ns <= event.message.stamp_ns
            if said_with_it and stop.arrival_ns > event.arrival_ns:
                self._append(topics.SESSION_STOP, stop, now_ns, out)

    def _append(self, topic: str, received: Received, now_ns: int, out: Outputs) -> None:
        if self._recording is None:
            return
        try:
            self._recording.append(topic, received)
        except OSError as error:
            self._break_off(f"{topic} cannot be written: {error.strerror or error}", now_ns, out)

    def _obey(self, event: EpisodeEvent, received: Received, now_ns: int, out: Outputs) -> None:
        match event.kind:
            case "start" if self._is_current(event):
                self._say_started(now_ns, out)
            case "start" if event.episode in self._ended:
                self._refuse(event, f"episode {event.episode} has ended already", now_ns, out)
            case "start":
                self._start(event, received, now_ns, out)
            case "stop" if self._is_current(event) or event.episode in self._ended:
                if self._is_current(event):
                    self._close_recording()
                out.append(self._say("stopped", event.episode, event.task, now_ns))
            case "stop":
                self._refuse(event, "no such episode is being recorded", now_ns, out)
            case "discard":
                self._discard(event, now_ns, out)

    def _append_event(self, received: Received, now_ns: int, out: Outputs) -> None:
        """Record an event of the session, once however often it is said."""
        if self._recording is None:
            return
        last_seq = self._recording.counts[topics.SESSION_EVENT].last_seq
        if last_seq is None or received.message.seq > last_seq:
            self._append(topics.SESSION_EVENT, received, now_ns, out)

    def _is_current(self, event: EpisodeEvent) -> bool:
        return self._recording is not None and self._recording.meta.episode == event.episode

    def _start(self, event: EpisodeEvent, received: Received, now_ns: int, out: Outputs) -> None:
        if self._recording is not None:
            log.warning("start of episode %d ends episode %d", event.episode, self._current())
            self._close_recording()
        if reason := self._obstacle(now_ns):
            self._refuse(event, reason, now_ns, out)
            return
        try:
            recording = Recording(
                self._out, self._meta(event, received.arrival_ns), self._rig.recording.sync_s
            )
        except (OSError, RecordingError) as error:
            reason = f"{self._out} cannot be written to: {_words(error)}; choose another --out"
            self._refuse(event, reason, now_ns, out)
            return
        self._recording = recording
        # what was known at the start is part of the episode: rows can begin at once
        for topic, newest in self._watch.newest().items():
            self._append(topic, newest, now_ns, out)
        self._append(topics.SESSION_EVENT, received, now_ns, out)
        if self._recording is not None:
            self._say_started(now_ns, out)

    def _refuse(self, event: EpisodeEvent, reason: str, now_ns: int, out: Outputs) -> None:
        out.append(self._say("refused", event.episode, event.task, now_ns, detail=reason))

    def _say_started(self, now_ns: int, out: Outputs) -> None:
        assert self._recording is not None
        meta, detail = self._recording.meta, str(self._recording.folder)
        out.append(self._say("started", meta.episode, meta.task, now_ns, detail=detail))

    def _obstacle(self, now_ns: int) -> str:
        """Why no episode can start now; empty when nothing is in the way."""
        if silent := self._watch.silent(now_ns):
            return "; ".join(silent)
        needed = self._watch.bytes_for(self._longest_s) + self._saver.bytes_needed
        needed += self._rig.recording.min_free_bytes
        try:
            free = free_bytes(self._out)
        except OSError as error:
            return f"{self._out} cannot be looked at: {_words(error)}"
        if free < needed:
            return (
                f"the disk of {self._out} has {free / 1e9:.1f} GB free and an episode of "
                f"{self._longest_s:g} s needs {needed / 1e9:.1f} GB; make room "
                "or choose another --out"
            )
        return ""

    def _meta(self, event: EpisodeEvent, start_ns: int) -> Meta:
        return Meta(
            task=event.task or self._task,
            instruction=self._rig.tasks[self._task].instruction,
            operator=self._operator,
            episode=event.episode,
            start_ns=start_ns,
            wall_start=datetime.now(UTC).isoformat(timespec="milliseconds"),
            software_version=self._version,
            rig=self._rig_content,
            calibration=self._calibration,
            job=self._origin.job,
            scene=self._origin.scene_of(event.episode),
            tags=self._origin.tags,
            streams=self._streams,
        )

    def _current(self) -> int:
        assert self._recording is not None
        return self._recording.meta.episode

    def _close_recording(self) -> None:
        recording, self._recording = self._recording, None
        assert recording is not None
        self._ended.add(recording.meta.episode)
        self._saver.save(recording)

    def _break_off(self, reason: str, now_ns: int, out: Outputs) -> None:
        """End the episode where it is; what was written is kept and finished if possible."""
        recording = self._recording
        assert recording is not None
        seconds = (now_ns - recording.meta.start_ns) / NS_PER_S
        recording.cut_short = reason
        detail = f"recording broke off after {seconds:.1f} s, which are kept: {reason}"
        log.error("episode %d: %s", recording.meta.episode, detail)
        meta = recording.meta
        out.append(self._say("failed", meta.episode, meta.task, now_ns, detail=detail))
        self._close_recording()

    def _check_disk(self, now_ns: int, out: Outputs) -> None:
        """Stop while there is room left to finish the episode."""
        assert self._recording is not None
        needed = room_needed(self._recording.bytes) + self._saver.bytes_needed
        free = free_bytes(self._recording.folder)
        if free < needed:
            reason = f"the disk has {free / 1e6:.0f} MB left, which finishing the episode needs"
            self._break_off(reason, now_ns, out)

    def _discard(self, event: EpisodeEvent, now_ns: int, out: Outputs) -> None:
        try:
            if self._is_current(event):
                recording = cast(Recording, self._recording)
                self._recording = None
                self._ended.add(event.episode)
                recording.stop()
                discard(recording.folder)
                recording.lock.release()
                gone: Path | None = recording.folder
            else:
                gone = self._saver.discard(event.episode)
        except OSError as error:
            detail = f"episode {event.episode} cannot be deleted: {_words(error)}"
            out.append(self._say("failed", event.episode, event.task, now_ns, detail=detail))
            return
        if gone is not None:
            detail = f"discarded {gone.name}"
            out.append(self._say("note", event.episode, event.task, now_ns, detail=detail))

    def _report(self, saved: Saved, now_ns: int) -> tuple[str, EpisodeEvent]:
        episode, task, built = saved.episode, saved.task, saved.built
        if saved.discarded:
            detail = f"discarded {saved.kept_at.name}"
            return self._say("note", episode, task, now_ns, detail=detail)
        if built is None:
            return self._say("failed", episode, task, now_ns, detail=saved.error)
        if saved.cut_short:
            detail = f"what was recorded before it broke off is in {built.path}"
            return self._say("note", episode, task, now_ns, detail=detail)
        detail = json.dumps(
            {
                "path": str(built.path),
                "verdict": built.verdict.level,
                "reasons": list(built.verdict.reasons),
                "rows": built.row_count,
                "seconds": round(built.seconds, 3),
            }
        )
        return self._say("saved", episode, task, now_ns, detail=detail)

    def _say(
        self, kind: str, episode: int, task: str, now_ns: int, *, detail: str = ""
    ) -> tuple[str, EpisodeEvent]:
        seq = self._seq.next(topics.RECORDER_EVENT)
        return topics.RECORDER_EVENT, EpisodeEvent(
            now_ns, seq, kind, episode, task or self._task, "unknown", detail
        )

    def health(self, now_ns: int) -> NodeHealth:
        """What the operator's live line shows, as numbers and in words."""
        rates_hz = self._watch.rates_hz()
        values = {f"rate_hz.{topic}": hz for topic, hz in rates_hz.items()}
        try:
            free = free_bytes(self._out)
        except OSError as error:
            return NodeHealth(False, "idle", f"{self._out}: {_words(error)}", values)
        values["disk_free_bytes"] = float(free)
        words = [*self._watch.slowest(), f"{free / 1e9:.1f} GB free"]
        state = "saving" if self._saver.busy else "idle"
        recording = self._recording
        if recording is not None:
            state = "recording"
            lost = sum(c.lost for c in recording.counts.values())
            values["seconds"] = (now_ns - recording.meta.start_ns) / NS_PER_S
            values["bytes"] = float(recording.bytes)
            values["drops"] = float(lost)
            values |= {f"drops.{t}": float(c.lost) for t, c in recording.counts.items() if c.lost}
            words = [f"{recording.bytes / 1e6:.1f} MB", f"{lost} lost", *words]
        silent = self._watch.silent(now_ns)
        return NodeHealth(not silent, state, "; ".join(silent) or ", ".join(words), values)

    def close(self) -> None:
        """Keep the open episode, its outcome unknown, and wait until all are saved."""
        if self._recording is not None:
            self._close_recording()
        for saved in self._saver.close():
            if saved.built is None:
                log.error("episode %d: %s", saved.episode, saved.error)


def plan_streams(rig: Rig, task: str) -> tuple[StreamPlan, ...]:
    """What is recorded for a task, and what of it is required.

    Required are the state of every arm, what the acting arms were let do, and the task's cameras.
    The recorder's own health is left out: it tells of the disk, not of the episode. What
    leaders are let do has no rate: guided by hand they are commanded nothing.
    """
    chosen = rig.tasks[task].cameras
    idle = {"recorder", *(() if chosen is None else set(rig.cameras) - set(chosen))}
    required = {
        *(topics.arm_state(arm) for arm in rig.arms),
        *(topics.arm_applied(arm) for arm in rig.acting),
        *(topics.camera_frame(camera) for camera in rig.cameras),
    }
    unpaced = {topics.arm_applied(arm) for arm in rig.leaders}
    return tuple(
        StreamPlan(
            topic, None if topic in unpaced else nominal_rate_hz(rig, topic), topic in required
        )
        for topic in sorted(topics_of(rig))
        if topics.row_of(topic).recorded and idle.isdisjoint(topic.split("/"))
    )


def build(name: str, context: NodeContext) -> RecorderNode:
    """Make the node from its options, of which only ``out`` and ``task`` are needed."""
    options = context.options
    return RecorderNode(
        name,
        context.rig,
        Path(str(options["out"])),
        str(options["task"]),
        str(options.get("operator", context.rig.operator.name)),
        cast(dict[str, Any], options.get("calibration", {})),
        Origin(
            str(options.get("job", "")),
            cast(int | None, options.get("seed")) if context.rig.backend != "hardware" else None,
            cast(int, options.get("first_episode", 0)),
            tuple(cast(list[str], options.get("tags", []))),
        ),
        context.clock.now_ns(),
        cast(float | None, options.get("max_seconds")),
    )


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
