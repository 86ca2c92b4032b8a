"""SpaceMice as ``pyspacemouse`` and hidapi show them: finding, opening and reading one.

``easyhid`` looks for hidapi when it is imported, and finds none without saying so: here it is
loaded first when the rig names one, and looked at afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from teleop.clock import Clock, ns_from_s
from teleop.errors import DeviceError, DeviceLostError, MissingExtraError, UnknownNameError
from teleop.messages import FloatArray
from teleop.rig_inputs import SPACEMOUSE_BUTTONS

UDEV_RULE = """\
# 3Dconnexion pucks: for whoever sits at this machine, and for the group plugdev.
KERNEL=="hidraw*", ATTRS{idVendor}=="256f", MODE="0660", GROUP="plugdev", TAG+="uaccess"
KERNEL=="hidraw*", KERNELS=="0005:256F:*", MODE="0660", GROUP="plugdev", TAG+="uaccess"
KERNEL=="hidraw*", ATTRS{idVendor}=="046d", ATTRS{idProduct}=="c625|c626|c627|c629|c62b", \
MODE="0660", GROUP="plugdev", TAG+="uaccess"
"""
"""Older pucks have Logitech's vendor number, as its keyboards do: those stay closed."""
UDEV_FILE = "/etc/udev/rules.d/70-tandem-spacemouse.rules"
"""Below 73, where systemd turns the tag ``uaccess`` into a permission."""
PAGE = "docs/devices/spacemouse.md"
PLUG_IN = "plug it in, `lsusb` shows 3Dconnexion or Logitech"
IDENTIFY_WAIT_MS = 5
IDENTIFY_PUSH = 0.2
"""More than a puck that lies there ever reports."""


class HidLibrary:
    """The vendor's packages with a hidapi that works.

    Args:
        library: The hidapi to use; the system's when None.

    Raises:
        DeviceError: there is no hidapi.
        MissingExtraError: pyspacemouse is not installed.
    """

    def __init__(self, library: str | None = None) -> None:
        wanted: ctypes.CDLL | None = None
        if library is not None:
            try:  # Global, because easyhid then finds it whatever it is called.
                wanted = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise DeviceError(f"hidapi does not load ({error}); correct `library`") from None
            if not hasattr(wanted, "hid_init"):
                raise DeviceError(f"{library} is no hidapi; correct `library`")
        try:
            import pyspacemouse
            from easyhid import easyhid
        except ImportError as error:
            raise MissingExtraError("pyspacemouse", "spacemouse", "a SpaceMouse") from error
        self.vendor: Any = pyspacemouse
        self.hid: Any = easyhid
        try:
            used = int(easyhid.ffi.cast("uintptr_t", easyhid.hidapi.hid_init))
        except AttributeError:
            raise DeviceError(
                "the library hidapi (hidraw flavour) is not installed; "
                "run: sudo apt install libhidapi-hidraw0"
            ) from None
        same = wanted is None or used == ctypes.cast(wanted.hid_init, ctypes.c_void_p).value
        self._note = "" if same else f" by the hidapi that was loaded before {library}"
        """For errors: another one may not see the same devices."""

    def pucks(self) -> dict[str, str]:
        """Kinds of all pucks that are plugged in, by path, whether or not they open."""
        found = ((path, self._kind_of(hid)) for path, hid in self._listed().items())
        return {path: kind.name for path, kind in found if kind is not None}

    def open(self, path: str | None = None, device: str | None = None) -> Puck:
        """Open a puck.

        Args:
            path: Its device file or a link to it; the only puck there is when None.
            device: Its kind by pyspacemouse's name; by its USB ids when None.

        Raises:
            DeviceError: not there, several to choose from, of no known kind, or it does not open.
        """
        kinds = self.vendor.get_device_specs()
        if device is not None and device not in kinds:
            raise DeviceError(f"{UnknownNameError('device', device, kinds)}; correct `device`")
        listed = self._listed()
        path = self._found(path, listed) if path is not None else self._only(device)
        kind = kinds[device] if device is not None else self._kind_of(listed[path])
        if kind is None:
            ids = f"{listed[path].vendor_id:04x}:{listed[path].product_id:04x}"
            raise DeviceError(
                f"{path} ({ids}) is no puck that pyspacemouse knows; "
                "set `device` to the kind that resembles it, or correct `path`"
            )
        return Puck(self, listed[path], kind)

    def _listed(self) -> dict[str, Any]:
        return {hid.path: hid for hid in self.hid.Enumeration().device_list}

    def _kind_of(self, hid: Any) -> Any | None:
        kinds = self.vendor.get_device_specs().values()
        ids = (hid.vendor_id, hid.product_id)
        return next((kind for kind in kinds if kind.hid_id == ids), None)

    def _found(self, path: str, listed: Iterable[str]) -> str:
        real = Path(path).resolve()
        if not real.exists():
            raise DeviceError(f"{path} is not there; plug the puck in, or correct `path`")
        for candidate in listed:
            if Path(candidate).resolve() == real:
                return candidate
        raise DeviceError(f"{path} is not seen as a HID device{self._note}; correct `path`")

    def _only(self, device: str | None) -> str:
        paths = [path for path, kind in self.pucks().items() if device in (None, kind)]
        if not paths:
            raise DeviceError(f"no {device or 'puck'} found{self._note}; {PLUG_IN}")
        if len(paths) > 1:
            raise DeviceError(
                f"{len(paths)} pucks, or interfaces of one, to choose from "
                f"({', '.join(sorted(paths))}); set `path`, see 'Which one' in {PAGE}"
            )
        return paths[0]

    def why_not_open(self, path: str) -> str:
        """What hidapi says of the last opening that failed, and what to do."""
        # easyhid hides the reason; hidapi tells it from version 0.12 on.
        words = self.hid.hidapi.hid_error(self.hid.ffi.NULL)
        reason = str(self.hid.ffi.string(words)) if words else ""
        if os.strerror(errno.EACCES) in reason or not os.access(path, os.R_OK | os.W_OK):
            return f"{path}: permission denied; install the udev rule of {PAGE} and plug it in anew"
        return f"{path} does not open ({reason or 'no reason given'}); plug it in anew"


class Puck:
    """An open puck, in ROS axes whatever its kind; used by one thread.

    Raises:
        DeviceError: it does not open; says why.
    """

    def __init__(self, library: HidLibrary, hid: Any, kind: Any) -> None:
        self.path = str(hid.path)
        self.kind = str(kind.name)
        self.on_axes: Callable[[FloatArray], None] = _ignore
        """Told the deflection, shape (6,): x, y, z, roll, pitch, yaw, of full scale."""
        self.on_buttons: Callable[[frozenset[str]], None] = _ignore
        """Told the buttons pressed, numbered as the report numbers them."""
        self._lost_error: type[Exception] = library.hid.HIDException
        self._hid = _PatientHid(hid)
        ros = library.vendor.apply_axis_convention(kind, library.vendor.AxisConvention.ROS)
        self._names = [SPACEMOUSE_BUTTONS[8 * (b.byte - 1) + b.bit] for b in ros.button_specs]
        self._mouse = library.vendor.SpaceMouseDevice(ros, self._hid)
        self._mouse.configure(dof_callback=self._axes, button_callback=self._buttons)
        try:
            self._mouse.open()
        except RuntimeError:
            raise DeviceError(library.why_not_open(self.path)) from None

    def read(self, wait_ms: int) -> bool:
        """Take one report, waiting for it at most so long; returns whether there was one.

        Raises:
            DeviceLostError: it is gone.
        """
        self._hid.wait_ms = wait_ms
        try:
            self._mouse.read()
        except self._lost_error as error:
            raise DeviceLostError(f"{self.path} is gone ({error}); plug it in again") from None
        return self._hid.got

    def set_lamp(self, on: bool) -> None:
        """Switch the lamp, if it has one."""
        self._mouse.set_led(on)

    def close(self) -> None:
        """Let others have it."""
        self._mouse.close()

    def _axes(self, state: Any) -> None:
        axes = (state.x, state.y, state.z, state.roll, state.pitch, state.yaw)
        self.on_axes(np.array(axes, dtype=float))

    def _buttons(self, state: Any, buttons: list[int]) -> None:
        self.on_buttons(frozenset(n for n, b in zip(self._names, buttons, strict=True) if b))


class _PatientHid:
    """An easyhid device whose reads wait for the next report, as long as they are told."""

    def __init__(self, hid: Any) -> None:
        self._hid = hid
        self.wait_ms = 0
        self.got = False
        """Whether the last read found a report."""
        self.open, self.close, self.write = hid.open, hid.close, hid.write
        self.product_string = hid.product_string
        self.manufacturer_string = hid.manufacturer_string
        self.release_number = hid.release_number
        self.serial_number = hid.serial_number

    def read(self, size: int) -> bytearray:
        report: bytearray = self._hid.read(size, self.wait_ms)
        self.got = bool(report)
        return report


def _ignore(_: object) -> None:
    pass


def _note_push(path: str, pushed: list[str], axes: FloatArray) -> None:
    if np.abs(axes).max() >= IDENTIFY_PUSH:
        pushed.append(path)


def identify(clock: Clock, library: str | None = None, patience_s: float = 20.0) -> str:
    """The path of the puck that somebody pushes now, of all pucks and receiver interfaces.

    Raises:
        DeviceError: none is there, none opens, or none was pushed in this time.
    """
    hidapi = HidLibrary(library)
    pushed: list[str] = []
    refusals: list[str] = []
    pucks: list[Puck] = []
    for path in sorted(hidapi.pucks()):
        try:
            pucks.append(hidapi.open(path))
        except DeviceError as error:
            refusals.append(str(error))
            continue
        pucks[-1].on_axes = partial(_note_push, path, pushed)
    if not pucks:
        raise DeviceError(refusals[0] if refusals else f"no puck found; {PLUG_IN}")
    end_ns = clock.now_ns() + ns_from_s(patience_s)
    try:
        while not pushed and clock.now_ns() < end_ns:
            for puck in pucks:
                puck.read(IDENTIFY_WAIT_MS)
    finally:
        for puck in pucks:
            puck.close()
    if not pushed:
        raise DeviceError(
            f"none of {', '.join(p.path for p in pucks)} moved in {patience_s:g} s; "
            "push the puck while this runs, and see that it is switched on"
        )
    return pushed[0]


@dataclass(frozen=True, slots=True)
class Probe:
    """What is there, for the doctor."""

    pucks: dict[str, str]
    """Kinds by path, of those that open."""
    faults: tuple[str, ...]
    """Sentences "what was seen; what to do"."""


def probe(library: str | None = None) -> Probe:
    """Look for hidapi and for pucks, and open each for a moment.

    Raises:
        MissingExtraError: pyspacemouse is not installed.
    """
    try:
        hidapi = HidLibrary(library)
    except DeviceError as error:
        return Probe({}, (str(error),))
    found = hidapi.pucks()
    faults = [] if found else [f"no puck found; {PLUG_IN}"]
    for path in sorted(found):
        try:
            hidapi.open(path).close()
        except DeviceError as error:
            faults.append(str(error))
            del found[path]
    return Probe(found, tuple(faults))
