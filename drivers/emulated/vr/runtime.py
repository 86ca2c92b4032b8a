"""A stand-in for SteamVR and its controllers, below the unmodified ``openvr`` package.

``openvr`` loads our library (``runtime.c``) in place of SteamVR's; it reads the controllers
from a file in the runtime's folder, which a ``VrRuntime`` writes. There is no server process, and
any number of clients may come and go.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.poses import rotation_from_quaternion
from drivers.emulated.stand_in import HandPose, PuckPush
from drivers.emulated.vr import abi as vr_abi
from drivers.emulated.vr.bindings import axes_of, pressed_of
from teleop.clock import MonotonicClock
from teleop.errors import DeviceError
from teleop.messages import FloatArray
from teleop.rig_inputs import OpenVrInput

OUT_OF_RANGE = 201
"""TrackingResult_Running_OutOfRange; SteamVR goes on guessing a pose and calls it valid."""
NOT_RUNNING = 121
"""VRInitError_Init_NoServerForBackgroundApp."""
_RUNNING_OK = 200
_ACTIVATED, _DEACTIVATED, _ROLE_CHANGED = 100, 101, 108
_PRESS, _UNPRESS, _QUIT = 200, 201, 700
_HEADSET, _CONTROLLER, _TRACKER, _BASE_STATION = 1, 2, 3, 4
_ROLES = {"left": 1, "right": 2}
_USER_INTERACTION = 1
_FIRST_INPUT = 3
"""Index of the first controller, after the (null) headset and two base stations."""


@dataclass(frozen=True, slots=True)
class HapticPulse:
    """A pulse that a client asked for."""

    device: int
    duration_us: int
    stamp_ns: int


def emulated_fields(runtime_dir: Path) -> dict[str, str]:
    """What changes in an input's configuration when it is emulated.

    Args:
        runtime_dir: folder of the run; the runtime goes into a folder of its own in it.
    """
    return {"runtime": str(runtime_dir / "openvr")}


class VrRuntime:
    """SteamVR as a teleoperation program sees it, with one controller or tracker per input.

    An input bound by hand gets a controller in that hand, one bound by serial number a tracker.

    Args:
        inputs: by name; their ``runtime`` is where the runtime is made.
        controller_type: what the controllers are, see ``bindings.py``.
        runtime: folder to use instead.
    """

    def __init__(
        self,
        inputs: Mapping[str, OpenVrInput],
        controller_type: str = "oculus_touch",
        runtime: Path | None = None,
    ) -> None:
        folders = {config.runtime for config in inputs.values() if config.runtime is not None}
        if runtime is None and len(folders) != 1:
            raise DeviceError("emulated SteamVR: its inputs name no folder to make it in, or two")
        self.runtime = runtime if runtime is not None else Path(folders.pop())
        self._inputs = dict(inputs)
        self._controller_type = controller_type
        self._clock = MonotonicClock()
        self._index = {name: _FIRST_INPUT + i for i, name in enumerate(inputs)}
        self._hands: dict[str, HandPose] = {}
        self._frozen: set[str] = set()
        self._state: Any = None

    def start(self) -> None:
        """Build the library if need be, and switch everything on.

        Raises:
            DeviceError: there is no C compiler.
            MissingExtraError: openvr is not installed.
        """
        vr_abi.install(self.runtime)
        for folder in ("config", "logs"):
            (self.runtime / folder).mkdir(exist_ok=True)
        layout = vr_abi.state_type(vr_abi.load_openvr())
        new = self.runtime / "state.bin.new"
        new.write_bytes(bytes(layout.itemsize))
        with new.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), layout.itemsize)
        self._state = np.frombuffer(mapped, layout, count=1)[0]
        self._state["hmd_present"] = self._state["input_available"] = 1
        self._state["raw_to_standing"] = self._state["seated_to_standing"] = np.eye(3, 4)
        self._add(0, _HEADSET, "Null Serial Number", "null_headset", position_m=(0.0, 1.7, 0.0))
        for i in (1, 2):
            self._add(i, _BASE_STATION, f"LHB-EMULATED{i}", "lighthouse", position_m=(0.0, 2.5, -i))
        for name in self._inputs:
            self._add_input(name)
        new.replace(self.runtime / "state.bin")

    def move(self, name: str, hand: HandPose | PuckPush) -> None:
        """What the operator's hand does with input ``name`` from now on.

        Raises:
            DeviceError: the controller has no such button.
        """
        assert isinstance(hand, HandPose)  # every OpenVR input is a hand
        self._hands[name] = hand
        pressed = pressed_of(self.type_of(name), hand)
        axes = axes_of(self.type_of(name), hand)
        index = self._index[name]
        with self._changed(index) as device:
            device["matrix"][:, :3] = rotation_from_quaternion(hand.quaternion_wxyz)
            device["matrix"][:, 3] = hand.position_m
            device["result"] = _RUNNING_OK if hand.tracked else OUT_OF_RANGE
            if name in self._frozen:
                return
            before = int(device["pressed"])
            if before != pressed or not np.array_equal(device["axis"], np.float32(axes)):
                device["packet"] += 1
            device["pressed"] = device["touched"] = pressed
            device["axis"] = axes
        for bit in range(64):
            if (before ^ pressed) >> bit & 1:
                kind = _PRESS if pressed >> bit & 1 else _UNPRESS
                self.send_event(kind, index, bit.to_bytes(4, "little"))

    # What the operator, the controllers and SteamVR do besides

    def lose_tracking(self, name: str) -> None:
        """The base stations lose sight; the pose stays valid and is no longer to be believed."""
        self._set(name, result=OUT_OF_RANGE)

    def find_tracking(self, name: str) -> None:
        """They see it again."""
        self._set(name, result=_RUNNING_OK)

    def coast(
        self, name: str, velocity_m_s: FloatArray, angular_velocity_rad_s: FloatArray
    ) -> None:
        """Report velocities, both shape (3,), from which clients predict."""
        self._set(name, velocity=velocity_m_s, angular_velocity=angular_velocity_rad_s)

    def freeze_buttons(self, name: str) -> None:
        """No button arrives, ever: what a controller without a legacy binding looks like."""
        self._frozen.add(name)
        self._set(name, packet=0, pressed=0, touched=0, axis=0.0)

    def set_battery(self, name: str, fraction: float, charging: bool = False) -> None:
        """Charge, 0 ... 1."""
        self._set(name, battery=fraction, charging=charging, has_battery=1)

    def set_role(self, name: str, hand: str | None) -> None:
        """SteamVR gives the controller another hand, or none."""
        self._set(name, role=_ROLES.get(hand or "", 0))
        self.send_event(_ROLE_CHANGED, self._index[name])

    def set_tracking(self, name: str, valid: bool, result: int) -> None:
        """Any other pair of OpenVR's two words on a pose."""
        self._set(name, valid=valid, result=result)

    def unplug(self, name: str) -> None:
        """The controller is switched off, or its dongle pulled."""
        self._set(name, connected=0, valid=0)
        self.send_event(_DEACTIVATED, self._index[name])

    def replug(self, name: str) -> None:
        """It comes back, at another index; the old one keeps its serial number."""
        old = self._index[name]
        self._index[name] = max(self._index.values()) + 1
        record = self._record(old).copy()
        record["connected"] = record["valid"] = 1
        self._write(self._index[name], record)
        self.send_event(_ACTIVATED, self._index[name])

    def quit(self) -> None:
        """SteamVR is closed: it tells its clients, and takes no new ones."""
        self.fail_init(NOT_RUNNING)
        self._state["acknowledged_ns"] = 0
        self.send_event(_QUIT, 0)

    def restart(self) -> None:
        """SteamVR is started again."""
        self.fail_init(0)

    def fail_init(self, error: int) -> None:
        """Answer new clients with an ``EVRInitError``; 0 lets them in."""
        self._state["init_error"] = error

    def send_event(self, kind: int, device: int, data: bytes = b"") -> None:
        """Put an event into every client's queue."""
        head = int(self._state["event_head"])
        event = self._state["events"][head % vr_abi.EVENTS]
        event["type"], event["device"] = kind, device
        event["stamp_ns"] = self._clock.now_ns()
        event["data"] = np.frombuffer(data.ljust(event["data"].size, b"\0"), np.uint8)
        self._state["event_head"] = head + 1

    # What can be seen of the clients

    def index_of(self, name: str) -> int:
        """Where OpenVR lists the input's device now."""
        return self._index[name]

    def serial_of(self, name: str) -> str:
        """Its serial number."""
        return self._inputs[name].serial or f"LHR-EMULATED-{name.upper()}"

    def type_of(self, name: str) -> str:
        """SteamVR's name for the type of its controller."""
        return self._controller_type if self._inputs[name].hand else "vive_tracker_handed"

    def counts(self) -> dict[str, int]:
        """Tries to come in, clients that did (``inits``) and left (``cleanups``), calls that
        nobody serves."""
        names = ("attempts", "inits", "cleanups", "unlisted_calls")
        return {name: int(self._state[name]) for name in names}

    def acknowledged_ns(self) -> int:
        """When a client acknowledged ``quit``, on the monotonic clock; 0: none has."""
        return int(self._state["acknowledged_ns"])

    def haptics(self) -> list[HapticPulse]:
        """Pulses asked for, oldest first, the last 256."""
        head = int(self._state["haptic_head"])
        ring = self._state["haptics"]
        rows = [ring[i % vr_abi.HAPTICS] for i in range(max(0, head - vr_abi.HAPTICS), head)]
        return [
            HapticPulse(int(r["device"]), int(r["duration_us"]), int(r["stamp_ns"])) for r in rows
        ]

    def close(self) -> None:
        """Close SteamVR. Never raises."""
        if self._state is not None:
            self.quit()
            with contextlib.suppress(OSError):
                (self.runtime / "state.bin").unlink(missing_ok=True)
            self._state = None

    # Writing records

    def _add(
        self,
        index: int,
        device_class: int,
        serial: str,
        model: str,
        role: int = 0,
        position_m: tuple[float, float, float] = (0.0, 1.0, 0.0),
    ) -> None:
        record = np.zeros((), vr_abi.DEVICE)
        record["device_class"], record["role"] = device_class, role
        record["activity"], record["result"] = _USER_INTERACTION, _RUNNING_OK
        record["valid"] = record["connected"] = 1
        record["matrix"] = np.column_stack((np.eye(3), position_m))
        record["serial"], record["model"] = serial.encode(), model.encode()
        record["controller_type"] = record["render_model"] = model.encode()
        record["manufacturer"] = b"emulated"
        record["tracking_system"] = b"null" if device_class == _HEADSET else b"lighthouse"
        self._write(index, record)

    def _add_input(self, name: str) -> None:
        config = self._inputs[name]
        kind = _CONTROLLER if config.hand else _TRACKER
        role = _ROLES[config.hand] if config.hand else 0
        self._add(self._index[name], kind, self.serial_of(name), self.type_of(name), role)
        self._set(name, packet=1)
        self.set_battery(name, 0.9)

    def _set(self, name: str, **fields: Any) -> None:
        with self._changed(self._index[name]) as device:
            for field, value in fields.items():
                device[field] = value

    @contextlib.contextmanager
    def _changed(self, index: int) -> Iterator[Any]:
        record = self._record(index).copy()
        yield record
        self._write(index, record)

    def _record(self, index: int) -> Any:
        slot = self._state["devices"][index]
        return slot["record"][int(slot["turn"]) % 2]

    def _write(self, index: int, record: Any) -> None:
        """Write the record that is not shown, then show it: a client never sees half of one."""
        slot = self._state["devices"][index]
        turn = int(slot["turn"]) + 1
        slot["record"][turn % 2] = record
        slot["turn"] = turn % 2**32
