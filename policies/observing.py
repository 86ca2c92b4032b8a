"""From the rig's streams to a policy's observations.

An observation holds what a row of the recorder holds: per stream the newest sample that had
arrived. Past observations, ``history_stride`` rows apart, are taken from the samples kept
since. When those arrived is not read off a clock here, because a message that waited while
the policy was computing seems to arrive late; it is the sample's stamp plus the shortest time
that the stream's samples take.

A camera frame that cannot be decoded counts as one that never came: the frame before it is
used while that is not too old. Only frames that an observation shows are decoded.

All times are the rig's (see ``policies.rig_time``), and so are the stamps of observations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from policies.images import decode, shrink
from policies.latency import Latencies
from policies.policy import OBJECT_POSE, Image, Observation, ObservationContract
from policies.rig_time import RigTime, WindowedMinimum
from teleop import messages as m
from teleop import topics
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import PolicyError
from teleop.messages import FloatArray
from teleop.node import Inputs, Received
from teleop.rig import Rig
from teleop.topics import Queue

PERIODS_STALE = 3
"""A camera that misses this many frames is too old to act on, beyond ``warn_late_s``."""


class Stream:
    """The samples of one topic that may still be needed.

    Args:
        oldest_ns: A newest sample of more than this age is too old to act on.
        span_ns: How far back samples are needed.
    """

    def __init__(self, oldest_ns: int, span_ns: int) -> None:
        self.oldest_ns = oldest_ns
        self._span_ns = span_ns
        self._until_arrival = WindowedMinimum()
        """From a stamp there to the arrival here: the delay and the two clocks' difference."""
        self._samples: deque[m.Message] = deque()
        self.damaged = 0
        self._damage = (0, "")
        """Stamp of the last sample that was thrown away, and what is wrong with it."""

    def take(self, received: Sequence[Received]) -> None:
        """Keep what came, and drop what is older than needed."""
        for got in received:
            self._until_arrival.add(got.arrival_ns - got.message.stamp_ns, got.arrival_ns)
            self._samples.append(got.message)
        while len(self._samples) > 1:
            # The sample after the first must stay the newest one at the far end of the span.
            if self._samples[1].stamp_ns > self._samples[-1].stamp_ns - self._span_ns:
                return
            self._samples.popleft()

    @property
    def newest(self) -> m.Message | None:
        """None before the first."""
        return self._samples[-1] if self._samples else None

    @property
    def damage(self) -> str:
        """What is wrong with a sample newer than all that are left; empty without one."""
        stamp_ns, fault = self._damage
        return fault if self.newest is None or stamp_ns > self.newest.stamp_ns else ""

    def throw_away(self, sample: m.Message, fault: str) -> None:
        """Count a sample as one that never came."""
        self._samples.remove(sample)
        self.damaged += 1
        if sample.stamp_ns >= self._damage[0]:
            self._damage = (sample.stamp_ns, fault)

    def at(self, rig_ns: int, rig_time: RigTime) -> m.Message:
        """The newest sample that had arrived by an instant; the oldest kept when none had.

        The clocks' difference is taken off only here: a sample may come before it is known.
        """
        delay_ns = rig_time.of(self._until_arrival.value or 0)
        for sample in reversed(self._samples):
            if sample.stamp_ns + delay_ns <= rig_ns:
                return sample
        return self._samples[0]


class Observer:
    """Collects samples and makes observations of them.

    Args:
        rig: Whose streams.
        contract: What the policy looks at.
        rig_time: The rig's clock.
        instruction: The task in words, part of every observation.
        clock: Times the decoding of images.
        latencies: Where ages and times are counted.
    """

    def __init__(
        self,
        rig: Rig,
        contract: ObservationContract,
        rig_time: RigTime,
        instruction: str,
        clock: Clock,
        latencies: Latencies,
    ) -> None:
        self._contract = contract
        self._rig_time = rig_time
        self._instruction = instruction
        self._clock = clock
        self._latencies = latencies
        self._arms = sorted(rig.followers)
        self._images: dict[tuple[str, int], Image] = {}
        """Decoded, by camera and the frame's number."""
        self._streams = _streams(rig, contract)
        every = Queue.ALL if contract.history > 1 else Queue.LATEST
        self.subscriptions = dict.fromkeys(self._streams, every)

    def take(self, inputs: Inputs) -> None:
        """Take in what came."""
        for arm in self._arms:
            for got in inputs.received(topics.arm_state(arm)):
                self._rig_time.hear(got.message.stamp_ns, got.arrival_ns)
        for topic, stream in self._streams.items():
            stream.take(inputs.received(topic))

    def missing(self, now_ns: int) -> str:
        """Why there is no complete observation now; empty when there is one.

        Args:
            now_ns: On this machine's clock.
        """
        rig_ns = self._rig_time.of(now_ns)
        for topic, stream in self._streams.items():
            sample = stream.newest
            damage = f"; the newest is damaged: {stream.damage}" if stream.damage else ""
            if sample is None:
                return f"nothing has come on {topic} yet{damage}"
            age_ns = rig_ns - sample.stamp_ns
            if age_ns > stream.oldest_ns:
                return f"{topic} is {age_ns / NS_PER_S:.2f} s old{damage}"
            if isinstance(sample, m.ArmState) and not np.isfinite(_columns(sample)).all():
                return f"{topic} lacks a joint"
        return ""

    def observe(self, now_ns: int, number: int, since_ns: int) -> list[Observation]:
        """The present observation and those before it, oldest first; empty when one is missing.

        Args:
            now_ns: On this machine's clock.
            number: The present observation's.
            since_ns: Rig time from which on the past belongs to this episode.
        """
        begun_ns = self._clock.now_ns()
        # Each turn throws a damaged frame away, until there is none or something is missing.
        while not self.missing(now_ns):
            moments = self._moments(now_ns, since_ns)
            if not self._decode(moments):
                continue
            self._forget_images(moments)
            if self._contract.cameras:
                self._latencies.add("decode", self._clock.now_ns() - begun_ns)
            oldest_ns = min(sample.stamp_ns for sample in moments[-1].values())
            self._latencies.add("observation", self._rig_time.of(now_ns) - oldest_ns)
            return [self._observation(samples, number) for samples in moments]
        self._images.clear()
        return []

    @property
    def damaged_frames(self) -> int:
        """Frames that could not be decoded, of those that were looked at."""
        return sum(stream.damaged for stream in self._streams.values())

    def _moments(self, now_ns: int, since_ns: int) -> list[dict[str, m.Message]]:
        """The samples of each observation by topic, oldest first: the newest that had arrived."""
        rig_ns = self._rig_time.of(now_ns)
        step_ns = self._contract.history_stride * self._contract.dt_ns
        past = [rig_ns - i * step_ns for i in range(self._contract.history - 1, 0, -1)]
        return [
            {topic: stream.at(at_ns, self._rig_time) for topic, stream in self._streams.items()}
            for at_ns in [*(at_ns for at_ns in past if at_ns >= since_ns), rig_ns]
        ]

    def _decode(self, moments: Sequence[dict[str, m.Message]]) -> bool:
        """Decode the frames to be shown; False when one cannot be, which is thrown away."""
        for view in self._contract.cameras:
            topic = topics.camera_frame(view.name)
            for samples in moments:
                frame = samples[topic]
                assert isinstance(frame, m.Frame)
                if (view.name, frame.seq) in self._images:
                    continue
                try:
                    pixels = decode(frame)
                except PolicyError as error:
                    self._streams[topic].throw_away(frame, str(error))
                    return False
                self._images[view.name, frame.seq] = shrink(pixels, view.height, view.width)
        return True

    def _observation(self, samples: dict[str, m.Message], number: int) -> Observation:
        """One moment as the policy sees it.

        It stands for the instant of its newest arm reading, on the rig's clock: a remote
        policy echoes stamps and makes none.
        """
        states = [samples[topics.arm_state(arm)] for arm in self._arms]
        extra = {}
        if topics.TASK_STATE in samples:
            task = samples[topics.TASK_STATE]
            assert isinstance(task, m.TaskState)
            extra[OBJECT_POSE] = task.object_pose.reshape(-1)
        return Observation(
            stamp_ns=max(state.stamp_ns for state in states),
            observation_id=number,
            qpos=np.concatenate([_columns(state) for state in states]),
            images={
                view.name: self._images[view.name, samples[topics.camera_frame(view.name)].seq]
                for view in self._contract.cameras
            },
            extra=extra,
            instruction=self._instruction,
        )

    def _forget_images(self, moments: Sequence[dict[str, m.Message]]) -> None:
        """Keep those that are shown now: the next observations look back at them."""
        used = {
            (view.name, samples[topics.camera_frame(view.name)].seq)
            for view in self._contract.cameras
            for samples in moments
        }
        self._images = {key: image for key, image in self._images.items() if key in used}


def _streams(rig: Rig, contract: ObservationContract) -> dict[str, Stream]:
    """What must be heard, by topic, and how old it may be."""
    oldest_s = {topics.arm_state(arm): rig.safety.stale_command_s for arm in sorted(rig.followers)}
    for view in contract.cameras:
        periods_s = PERIODS_STALE / rig.cameras[view.name].fps
        oldest_s[topics.camera_frame(view.name)] = periods_s + rig.recording.warn_late_s
    if any(extra.name == OBJECT_POSE for extra in contract.extras):
        oldest_s[topics.TASK_STATE] = PERIODS_STALE / rig.rates.task_hz
    span_ns = (contract.history - 1) * contract.history_stride * contract.dt_ns
    return {
        # The newest sample may itself be old when it is looked back from now.
        topic: Stream(ns_from_s(limit_s), span_ns + ns_from_s(limit_s))
        for topic, limit_s in oldest_s.items()
    }


def _columns(state: m.Message) -> FloatArray:
    """The arm's part of qpos: joints, then the gripper where there is one."""
    assert isinstance(state, m.ArmState)
    if state.gripper is None:
        return state.position_rad
    return np.append(state.position_rad, state.gripper)
