"""SteamVR's stand-in for tests: hands to move, and a hub with the clock in the test's hands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers.base import HandReading
from drivers.emulated.stand_in import HandPose
from drivers.emulated.vr.runtime import VrRuntime, emulated_fields
from drivers.vr.controller import OpenVrHub
from teleop.clock import MonotonicClock
from teleop.messages import FloatArray
from teleop.rig_inputs import OpenVrInput

PATIENCE_S = 20.0
TRACKER = "LHR-ABCDEF01"
"""Serial number."""
ROOT = Path(__file__).parents[2]
VARIABLES = {"VR_OVERRIDE": "", "VR_CONFIG_PATH": "config", "VR_LOG_PATH": "logs"}
"""By which OpenVR finds its runtime, with the folders in it."""


def skip_without_openvr() -> None:
    """Skip the module where the emulated runtime cannot be built or loaded, and say why."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the emulated OpenVR runtime", allow_module_level=True)
    try:
        import openvr  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"openvr cannot be loaded here: {error}", allow_module_level=True)


def inputs_of(folder: Path, **binding: str) -> dict[str, OpenVrInput]:
    """Inputs by name, each bound to ``left``, ``right`` or a serial number."""
    fields = emulated_fields(folder)
    hands = ("left", "right")
    return {
        name: OpenVrInput.model_validate({"hand" if to in hands else "serial": to, **fields})
        for name, to in binding.items()
    }


def hand_at(x: float, y: float = 1.0, z: float = 0.0, **rest: Any) -> HandPose:
    """A hand at a place, m, in the input's frame."""
    if "buttons" in rest:
        rest["buttons"] = frozenset(rest["buttons"])
    if "stick" in rest:
        rest["stick"] = np.array(rest["stick"])
    return HandPose(np.array([x, y, z]), **rest)


class ShiftedClock(MonotonicClock):
    """This machine's clock, some time ahead."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.ahead_ns


class Session:
    """A runtime and a hub in it, whose clock may be put ahead instead of waiting."""

    def __init__(self, inputs: Mapping[str, OpenVrInput], controller_type: str) -> None:
        self.runtime = VrRuntime(inputs, controller_type)
        self.clock = ShiftedClock()
        self.hub = OpenVrHub(inputs, self.clock)

    def take(self) -> dict[str, HandReading]:
        """The newest reading of each input."""
        readings = self.hub.take(self.clock.now_ns())
        return {name: each[-1] for name, each in readings.items()}

    def wait(self, happened: Callable[[], bool]) -> None:
        """Until something is so."""
        give_up_s = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < give_up_s, "it never happened"
            time.sleep(0.002)

    def close(self) -> None:
        """The hub first, as a rig does."""
        self.hub.close()
        self.runtime.close()


Open = Callable[..., Session]


@contextlib.contextmanager
def sessions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Makes sessions, connected unless told otherwise, and closes them at the end."""
    for variable in VARIABLES:  # the driver sets them; what was before comes back after the test
        monkeypatch.setenv(variable, "unset")
    made: list[Session] = []

    def make(controller_type: str = "oculus_touch", connect: bool = True, **bound: str) -> Session:
        inputs = inputs_of(folder / str(len(made)), **(bound or {"hand": "right"}))
        session = Session(inputs, controller_type)
        made.append(session)
        session.runtime.start()
        if connect:
            session.hub.connect()
        return session

    try:
        yield make
    finally:
        for session in made:
            session.close()


class Client:
    """Another program with the real package: evaluates OpenVR calls in a process of its own."""

    def __init__(self, runtime: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.drivers.openvr_client"],
            cwd=ROOT,
            env=_environment(runtime),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, words: str) -> Any:
        """The value of an expression, or the name of the error it raised as ``raised NAME``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the client died of {words!r}"
        return json.loads(answer)

    def leave(self) -> int:
        """End its input; returns its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End it whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def run_python(script: str, runtime: Path | None = None, **more: str) -> str:
    """What a fresh interpreter prints; its error output fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=_environment(runtime) | more,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment(runtime: Path | None) -> dict[str, str]:
    rest = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    if runtime is None:
        return rest
    return rest | {key: str(runtime / folder) for key, folder in VARIABLES.items()}


def turned_about(axis: tuple[float, float, float], angle_rad: float) -> FloatArray:
    """Quaternion w x y z of a turn about an axis of length 1."""
    return np.array([np.cos(angle_rad / 2), *(np.sin(angle_rad / 2) * np.array(axis))])
