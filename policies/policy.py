"""What a policy sees, what it promises, and what must hold before it may act.

A policy is trained on rows of episodes and acts on a live rig. The contract travels in its
checkpoint and says which rig, cameras and rates those rows came from, so that a mismatch
is one sentence at start instead of a wrong motion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recorder.meta import calibration_sha256
from recorder.rows import column_names
from teleop.clock import NS_PER_S
from teleop.errors import PolicyError, UnknownNameError
from teleop.messages import ActionChunk, FloatArray
from teleop.rig import Rig

Image = NDArray[np.uint8]

OBJECT_POSE = "object_pose"
"""Extra input: poses of the task's objects, flattened (N*7,). Privileged: emulation only."""

START_WARN = 0.1
"""Beyond the start poses of the training data by more (rad, or opening): worth knowing. The
servos hold with a proportional gain and rest a few hundredths off, more under a load."""
START_REFUSE = 0.35
"""By more than this the policy has seen nothing like it: 20 degrees, well beyond what homing
leaves (``teleop.commander.HOME_TOLERANCE_RAD``, 0.2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the policy may look at: per stream the newest sample that had arrived."""

    stamp_ns: int
    """The instant the observation stands for; row 0 of the chunk is meant for it."""
    observation_id: int
    qpos: FloatArray
    """Shape (D,), in the order of the contract's ``joint_names``; rad, gripper opening 0..1."""
    images: Mapping[str, Image] = field(default_factory=dict)
    """By camera: shape (H, W, 3), RGB, at the contract's training size."""
    extra: Mapping[str, FloatArray] = field(default_factory=dict)
    """By name: the contract's other inputs, each a vector."""
    instruction: str = ""
    """What is to be done, in the words of the rig's task."""


class Policy(Protocol):
    """Anything that turns an observation into a plan."""

    @property
    def contract(self) -> ObservationContract:
        """What the policy needs to see and what its actions mean."""

    def infer(self, history: Sequence[Observation]) -> ActionChunk:
        """Plan from the present on: row i is meant for ``history[-1].stamp_ns + i * dt_ns``.

        Args:
            history: Oldest first, the present observation last, ``contract.history_stride``
                rows apart; up to ``contract.history`` of them. At the beginning of an episode
                there are fewer: the oldest stands for those before it.
        """

    def reset(self) -> None:
        """Forget the past; called before every episode."""


class StartCheck(NamedTuple):
    """How the measured pose lies to the start poses of the training data, in words."""

    warnings: tuple[str, ...]
    """Joints between ``START_WARN`` and ``START_REFUSE`` outside."""
    refusals: tuple[str, ...]
    """Joints further outside, or not measured."""


@dataclass(frozen=True, slots=True)
class CameraView:
    """One camera as the policy was trained on it."""

    name: str
    height: int
    """Training resolution, pixels."""
    width: int
    source_height: int
    """Resolution of the recorded frames, pixels."""
    source_width: int
    fps: float
    settings: dict[str, float | None]
    """Exposure, focus, white balance and gain of the recording; None is automatic."""


@dataclass(frozen=True, slots=True)
class ExtraInput:
    """A further input vector."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class TextInput:
    """An instruction that the policy is conditioned on."""

    encoder: str
    """Name or ``module:attribute`` of the text encoder, see ``policies.text``."""
    size: int
    """Size of its embedding."""


@dataclass(frozen=True, slots=True)
class ObservationContract:
    """Names, order, units, rates and ranges of the data a policy was trained on."""

    tasks: tuple[str, ...]
    """Tasks of the training data; more than one only with a text input that tells them apart."""
    joint_names: tuple[str, ...]
    """``left_follower/waist`` ... : columns of qpos and of actions, rad; grippers 0..1."""
    cameras: tuple[CameraView, ...]
    extras: tuple[ExtraInput, ...]
    row_hz: float
    """Rows of observation and of action per second; may be fewer than the episodes have."""
    chunk_rows: int
    qpos_low: tuple[float, ...]
    """Smallest and largest value of each column in the training data."""
    qpos_high: tuple[float, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    start_low: tuple[float, ...]
    """Smallest and largest qpos of each column at the first rows of the training episodes."""
    start_high: tuple[float, ...]
    calibration_sha256: str
    """Of the rig's calibration, as the episodes hold it (``recorder.meta``); empty when they
    differ in it."""
    data_hash: str
    """SHA-256 over the episode files, in the order of their names."""
    history: int = 1
    """Observations the policy sees at once, the present one included."""
    history_stride: int = 1
    """Rows from one of them to the next."""
    text: TextInput | None = None

    @property
    def dt_ns(self) -> int:
        """Time from one action row to the next."""
        return round(NS_PER_S / self.row_hz)

    def clamp(self, action: FloatArray) -> FloatArray:
        """The action within the range of the training data; shape (A,)."""
        return np.clip(action, self.action_low, self.action_high)

    def check_rig(
        self, rig: Rig, calibration: Mapping[str, Any] | None = None, task: str = ""
    ) -> list[str]:
        """Compare with a live rig.

        Args:
            rig: As it will run the policy.
            calibration: Its calibration results, as the recorder stores them.
            task: What it is to do; empty when that is not known.

        Returns:
            Differences that a policy can live with but an operator should know.

        Raises:
            UnknownNameError: the rig lacks a camera of the contract.
            PolicyError: anything else that would make inputs or actions mean something else.
        """
        have = column_names(rig)
        if have != self.joint_names:
            raise PolicyError(
                f"the policy was trained on other joints than the rig {rig.name!r} has: "
                f"{_first_difference(self.joint_names, have)}; "
                "deploy it on the rig of its training data"
            )
        if rig.rates.arm_hz < self.row_hz:
            raise PolicyError(
                f"the rig's arms run at {rig.rates.arm_hz:g} Hz, the policy's actions come at "
                f"{self.row_hz:g} Hz; raise rates.arm_hz in the rig file"
            )
        for extra in self.extras:
            if extra.name == OBJECT_POSE and rig.backend == "hardware":
                raise PolicyError(
                    "the policy reads object poses, which only the emulated rig knows; "
                    "run it with --emulate or train one on cameras"
                )
            if extra.name == OBJECT_POSE and task and self.tasks and task not in self.tasks:
                raise PolicyError(
                    f"the policy reads the poses of the objects of {', '.join(self.tasks)}, and "
                    f"{task} has others; train one on episodes of {task}"
                )
        warnings = [warning for view in self.cameras for warning in _camera_warnings(view, rig)]
        if self.calibration_sha256 not in ("", calibration_sha256(calibration or {})):
            warnings.append("the rig's calibration is not that of the training episodes")
        if task and self.tasks and task not in self.tasks:
            warnings.append(f"the policy was trained for {', '.join(self.tasks)}, not for {task}")
        return warnings

    def check_start(self, qpos: FloatArray) -> StartCheck:
        """Compare the measured pose with the first rows of the training episodes.

        Args:
            qpos: Shape (D,), rad and gripper opening.
        """
        outside = np.maximum(
            np.asarray(self.start_low) - qpos, qpos - np.asarray(self.start_high)
        )  # (D,), negative inside
        words = [
            f"{name} is at {at:.2f}, training began at {low:.2f} to {high:.2f}"
            for name, at, low, high in zip(
                self.joint_names, qpos, self.start_low, self.start_high, strict=True
            )
        ]
        # Not >, so that a joint that was not measured (NaN) is refused.
        refused = ~(outside <= START_REFUSE)
        warned = (outside > START_WARN) & ~refused
        return StartCheck(
            tuple(words[i] for i in np.flatnonzero(warned)),
            tuple(words[i] for i in np.flatnonzero(refused)),
        )


def chunk_of(
    contract: ObservationContract, observation: Observation, actions: FloatArray, source: str
) -> ActionChunk:
    """A plan that begins at the observation's instant; shape of ``actions`` (H, A).

    ``seq`` and ``chunk_id`` are the observation's number: one plan per observation.
    """
    return ActionChunk(
        stamp_ns=observation.stamp_ns,
        seq=observation.observation_id,
        t0_ns=observation.stamp_ns,
        dt_ns=contract.dt_ns,
        actions=actions,
        chunk_id=observation.observation_id,
        observation_id=observation.observation_id,
        source=source,
    )


def _camera_warnings(view: CameraView, rig: Rig) -> Iterator[str]:
    camera = rig.cameras.get(view.name)
    if camera is None:
        raise UnknownNameError("camera of the policy", view.name, rig.cameras)
    if camera.width * view.source_height != camera.height * view.source_width:
        raise PolicyError(
            f"camera {view.name} gives {camera.width}x{camera.height} pixels, the policy was "
            f"trained on {view.source_width}x{view.source_height}: another shape of image; "
            "set the recorded width and height in the rig file"
        )
    if camera.width != view.source_width:
        yield (
            f"camera {view.name} runs at {camera.width}x{camera.height}, "
            f"recorded at {view.source_width}x{view.source_height}"
        )
    if camera.fps < 0.9 * view.fps:
        yield f"camera {view.name} runs at {camera.fps:g} fps, recorded at {view.fps:g}"
    now = camera_settings(rig, view.name)
    for name, recorded in view.settings.items():
        if now.get(name) != recorded:
            yield f"camera {view.name} has {name} {now.get(name)}, recorded with {recorded}"


def camera_settings(rig: Rig, camera: str) -> dict[str, float | None]:
    """The settings of a camera that change what an image looks like."""
    device = rig.cameras[camera]
    return {
        "exposure": device.exposure,
        "focus": device.focus,
        "white_balance_k": device.white_balance_k,
        "gain": device.gain,
    }


def _first_difference(trained: tuple[str, ...], live: tuple[str, ...]) -> str:
    for column, (want, got) in enumerate(zip(trained, live, strict=False)):
        if want != got:
            return f"column {column} is {got!r} instead of {want!r}"
    return f"{len(live)} columns instead of {len(trained)}"
