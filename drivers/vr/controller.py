"""Controllers and trackers of SteamVR, read by ``openvr``.

Run it in a process of its own, never in one that commands a robot: SteamVR kills its clients when
it pleases.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drivers.base import DeviceHealth, HandReading
from drivers.vr.buttons import TOUCH, TRACKER, Layout, layout_of
from drivers.vr.client import VrClient
from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError
from teleop.messages import FloatArray, Frame
from teleop.rig_inputs import OpenVrInput
from teleop.rotations import quaternion_of_matrix

log = logging.getLogger(__name__)

_MAX_EVENTS = 256
"""Handled per call at most: a flood must not hold up the poses."""
_SEARCH_NS = ns_from_s(0.25)
"""Between two searches for a device that is not there."""
_BUTTONS_DEAD_NS = ns_from_s(3.0)
"""A controller that is there for so long without having told of any button at all has no binding
(its packet number stays 0); see docs/devices/openvr.md."""
_LOW_BATTERY = 0.1
_PULSE_MAX_US = 3999
_PULSE_GAP_NS = ns_from_s(0.006)
"""The longest pulse and the least time between two, which is 5 ms; openvr.h and issue 129 of
github.com/ValveSoftware/openvr, where a pulse's length is what is felt as its strength."""
_BUZZ_PULSES = 8
"""One pulse alone is hardly felt (issue 469)."""


@dataclass(slots=True, eq=False)
class _Hand:
    """One input: the device it is bound to, and what was last known of it."""

    name: str
    config: OpenVrInput
    index: int | None = None
    """OpenVR's number of the device; None while it is not there."""
    layout: Layout = TOUCH
    kind: str = ""
    since_ns: int = 0
    """When it was found."""
    seen: bool = False
    """Whether it was ever there."""
    tracked: bool = False
    result: int = 0
    packet: int = 0
    """Number of the last news of its buttons; 0: none yet."""
    position_m: FloatArray = field(default_factory=lambda: np.zeros(3))
    quaternion_wxyz: FloatArray = field(default_factory=lambda: np.array([1.0, 0.0, 0.0, 0.0]))
    pulses: int = 0
    """Haptic pulses still to give."""
    pulse_us: int = 0
    next_pulse_ns: int = 0

    def wanted(self) -> str:
        """What it is bound to, in words."""
        if self.config.serial is not None:
            return f"no device with serial number {self.config.serial} is on"
        return f"no controller is on in the {self.config.hand} hand"

    def gone(self, stamp_ns: int) -> HandReading:
        """Where it was last, with everything let go."""
        self.tracked = False
        return HandReading(
            stamp_ns,
            self.position_m,
            self.quaternion_wxyz,
            tracked=False,
            trigger=0.0,
            squeeze=0.0,
            stick=np.zeros(2),
            buttons=frozenset(),
        )

    def place(self, matrix: FloatArray) -> None:
        """Take a trusted pose, shape (3, 4)."""
        self.position_m = matrix[:, 3].copy()
        quaternion = quaternion_of_matrix(matrix)
        # q and -q are one rotation; whoever filters or differentiates wants no leap between them.
        flip = float(quaternion @ self.quaternion_wxyz) < 0
        self.quaternion_wxyz = -quaternion if flip else quaternion


class OpenVrHub:
    """All inputs of a rig that SteamVR serves; see ``drivers.base.InputDevice``.

    A reading comes with every ``take`` from each device that was ever there, with
    ``tracked=False`` and the last pose believed in while SteamVR guesses, and with all buttons let
    go as well once the device is gone. Poses are live ones, in SteamVR's standing universe.

    Args:
        inputs: by name.
        clock: stamps the poses.
    """

    def __init__(self, inputs: Mapping[str, OpenVrInput], clock: Clock) -> None:
        self._hands = {name: _Hand(name, config) for name, config in inputs.items()}
        self._runtimes = {config.runtime for config in inputs.values()}
        self._client = VrClient(next(iter(self._runtimes), None))
        self._clock = clock
        self._opening = 0
        self._search_at_ns = 0
        self._poses: Any = None
        self._matrices: FloatArray = np.zeros((0, 3, 4))
        self._event: Any = None

    def connect(self) -> None:
        """Connect to SteamVR. Controllers that are off may be switched on later.

        Raises:
            MissingExtraError: openvr is not installed.
            DeviceError: SteamVR is not there, or cannot be used; in words.
        """
        if len(self._runtimes) > 1:
            raise DeviceError(
                f"SteamVR: the inputs {', '.join(self._hands)} name different runtimes; "
                "a process can use one only, give them the same"
            )
        self._client.open()
        self._prepare()

    def take(self, now_ns: int) -> dict[str, list[HandReading]]:
        """One reading of each device; a jump is passed on as it is.

        Raises:
            DeviceLostError: SteamVR is gone; it is looked for again every few seconds.
        """
        if not self._client.ready(now_ns):
            raise DeviceLostError(self._client.why)
        if self._opening != self._client.openings:
            self._prepare()
        if self._asked_to_quit():
            self._client.quit(now_ns)
            for hand in self._hands.values():
                hand.index = None
            raise DeviceLostError(self._client.why)
        system, api = self._client.system, self._client.api
        stamp_ns = self._clock.now_ns()
        system.getDeviceToAbsoluteTrackingPose(api.TrackingUniverseStanding, 0.0, self._poses)
        self._bind(now_ns)
        readings = {}
        for name, hand in self._hands.items():
            if hand.index is not None:
                readings[name] = [self._read(hand, hand.index, stamp_ns)]
                self._buzz(hand, hand.index, now_ns)
            elif hand.seen:
                readings[name] = [hand.gone(stamp_ns)]
        return readings

    def cue(self, name: str, state: str, pulse: float) -> None:
        """Buzz for some 50 ms, as strong as ``pulse`` says; has no lamp for the state."""
        if (hand := self._hands.get(name)) is not None and pulse > 0:
            hand.pulses = _BUZZ_PULSES
            hand.pulse_us = round(_PULSE_MAX_US * min(1.0, pulse))

    def show(self, camera: str, frame: Frame) -> None:
        """Has no display."""

    def health(self) -> DeviceHealth:
        """Devices that are off, not tracked, without buttons, or low on battery."""
        if self._client.system is None:
            return DeviceHealth(ok=False, detail=self._client.why)
        faults: list[str] = []
        notes: list[str] = []
        values: dict[str, float] = {"openings": float(self._client.openings)}
        for hand in self._hands.values():
            if trouble := self._trouble(hand):
                faults.append(f"{hand.name}: {trouble}")
            if silence := self._silence(hand):
                # Most trackers have nothing wired to their contacts.
                (notes if hand.layout is TRACKER else faults).append(f"{hand.name}: {silence}")
            values[f"{hand.name}_tracked"] = float(hand.tracked)
            values[f"{hand.name}_packet"] = float(hand.packet)
            if (battery := self._battery(hand)) is not None:
                values[f"{hand.name}_battery"] = battery
                if battery < _LOW_BATTERY:
                    notes.append(f"{hand.name}: battery at {battery:.0%}; charge it")
        return DeviceHealth(ok=not faults, detail="; ".join((*faults, *notes)), values=values)

    def close(self) -> None:
        """Leave SteamVR. Never raises."""
        self._client.close()

    # Which device is which

    def _prepare(self) -> None:
        """Begin with a fresh client."""
        api = self._client.api
        pose = api.TrackedDevicePose_t
        self._poses = (pose * api.k_unMaxTrackedDeviceCount)()
        self._matrices = np.ndarray(
            (api.k_unMaxTrackedDeviceCount, 3, 4),
            np.float32,
            self._poses,
            pose.mDeviceToAbsoluteTracking.offset,
            (ctypes.sizeof(pose), 16, 4),
        )
        self._event = api.VREvent_t()
        self._opening = self._client.openings
        self._search_at_ns = 0

    def _asked_to_quit(self) -> bool:
        system, api = self._client.system, self._client.api
        for _ in range(_MAX_EVENTS):
            if not system.pollNextEvent(self._event):
                return False
            if self._event.eventType == api.VREvent_Quit:
                return True
            if self._event.eventType in (
                api.VREvent_TrackedDeviceActivated,
                api.VREvent_TrackedDeviceDeactivated,
                api.VREvent_TrackedDeviceRoleChanged,
            ):
                self._search_at_ns = 0
        return False

    def _bind(self, now_ns: int) -> None:
        """Numbers and roles change whenever something is switched on or off."""
        may_search = now_ns >= self._search_at_ns
        for hand in self._hands.values():
            index = hand.index
            if index is not None and not self._poses[index].bDeviceIsConnected:
                index = None
            if hand.config.serial is None:
                index = self._index_by_role(hand.config.hand)
            elif index is None and may_search:
                index = self._index_by_serial(hand.config.serial)
            if index != hand.index:
                self._bind_to(hand, index, now_ns)
        if may_search:
            self._search_at_ns = now_ns + _SEARCH_NS

    def _bind_to(self, hand: _Hand, index: int | None, now_ns: int) -> None:
        hand.index, hand.since_ns, hand.packet = index, now_ns, 0
        if index is not None:
            hand.seen = True
            hand.kind = self._text(index, self._client.api.Prop_ControllerType_String)
            hand.layout = layout_of(hand.kind)
            if missing := set(hand.config.buttons).difference(hand.layout.buttons):
                log.warning(
                    "%s: a %s has no button %s, which the rig file gives a meaning; it has %s",
                    *(hand.name, hand.kind or "controller", ", ".join(sorted(missing))),
                    ", ".join(hand.layout.buttons),
                )

    def _index_by_role(self, role: str | None) -> int | None:
        api = self._client.api
        left, right = api.TrackedControllerRole_LeftHand, api.TrackedControllerRole_RightHand
        index = int(
            self._client.system.getTrackedDeviceIndexForControllerRole(
                left if role == "left" else right
            )
        )
        there = index < len(self._poses) and self._poses[index].bDeviceIsConnected
        return index if there else None

    def _index_by_serial(self, serial: str) -> int | None:
        """The one that is on: a number left behind keeps its serial number."""
        prop = self._client.api.Prop_SerialNumber_String
        for i, pose in enumerate(self._poses):
            if pose.bDeviceIsConnected and self._text(i, prop) == serial:
                return i
        return None

    # Reading

    def _read(self, hand: _Hand, index: int, stamp_ns: int) -> HandReading:
        api, system = self._client.api, self._client.system
        pose = self._poses[index]
        matrix = self._matrices[index].astype(np.float64)
        hand.result = int(pose.eTrackingResult)
        # Valid alone is not enough: out of sight SteamVR goes on guessing and calls that valid.
        trusted = bool(pose.bPoseIsValid) and hand.result == api.TrackingResult_Running_OK
        hand.tracked = trusted and bool(np.isfinite(matrix).all())
        if hand.tracked:
            hand.place(matrix)
        # Not answered, the state is empty: a tracker without a role has a pose and no buttons.
        _, state = system.getControllerState(index)
        hand.packet = int(state.unPacketNum)
        axes = [(axis.x, axis.y) for axis in state.rAxis]
        controls = hand.layout.controls(int(state.ulButtonPressed), axes)
        return HandReading(
            stamp_ns,
            hand.position_m,
            hand.quaternion_wxyz,
            hand.tracked,
            controls.trigger,
            controls.squeeze,
            controls.stick,
            controls.buttons,
        )

    def _buzz(self, hand: _Hand, index: int, now_ns: int) -> None:
        if hand.pulses > 0 and now_ns >= hand.next_pulse_ns:
            self._client.system.triggerHapticPulse(index, 0, hand.pulse_us)
            hand.pulses -= 1
            hand.next_pulse_ns = self._clock.now_ns() + _PULSE_GAP_NS

    # What is wrong

    def _trouble(self, hand: _Hand) -> str:
        if hand.index is None:
            return f"{hand.wanted()}; SteamVR has {self._present()}: switch it on, or pair it"
        if not hand.tracked:
            return f"is not tracked (result {hand.result}); bring it into the base stations' sight"
        return ""

    def _silence(self, hand: _Hand) -> str:
        silent_ns = self._clock.now_ns() - hand.since_ns
        if hand.index is None or hand.packet > 0 or silent_ns < _BUTTONS_DEAD_NS:
            return ""
        return (
            f"none of its buttons has arrived ({hand.kind or 'unknown type'}); press one, and if "
            "that does not help close SteamVR's dashboard, give it a role, choose its default "
            "binding"
        )

    def _present(self) -> str:
        api = self._client.api
        on = [
            f"{self._text(i, api.Prop_ControllerType_String) or 'device'} "
            f"{self._text(i, api.Prop_SerialNumber_String)}"
            for i, pose in enumerate(self._poses)
            if pose.bDeviceIsConnected
        ]
        return ", ".join(on) or "nothing"

    def _battery(self, hand: _Hand) -> float | None:
        if hand.index is None:
            return None
        api, system = self._client.api, self._client.system
        try:
            prop = api.Prop_DeviceBatteryPercentage_Float
            return float(system.getFloatTrackedDeviceProperty(hand.index, prop))
        except api.error_code.TrackedPropertyError:
            return None

    def _text(self, index: int, prop: int) -> str:
        api = self._client.api
        try:
            return str(self._client.system.getStringTrackedDeviceProperty(index, prop))
        except api.error_code.TrackedPropertyError:
            return ""
