"""The emulated OpenVR runtime's library: its interface from the installed package, built by gcc.

What a runtime must serve (order of the function table, sizes and offsets of structures, values of
enums) is read from the ``openvr`` package, and the layout of the state file from the data types
below. Both go into a header that ``runtime.c`` includes, so that neither is written twice and
a new release of the package needs no edit here.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drivers.emulated.c_library import c_library
from teleop.errors import DeviceError, MissingExtraError

SOURCE = Path(__file__).with_name("runtime.c")
_TYPES = Path(__file__).with_name("vr_types.h")
DEVICES, EVENTS, HAPTICS = 64, 256, 256
"""Devices are as many as OpenVR allows; the other two are rings."""
_C_TYPES = {
    "<f4": "float",
    "<i4": "int32_t",
    "<u4": "uint32_t",
    "<i8": "int64_t",
    "<u8": "uint64_t",
    "|u1": "uint8_t",
}
_INTERFACES = ("System", "Compositor")
"""Those with functions in the source, which are written as SYSTEM(...) and so on."""
_NAMED_ENUMS = ("VRInitError", "TrackedProp", "VREvent", "k_EButton", "k_eControllerAxis")
"""Enums of which the runtime tells the names; prefixes in the package."""

DEVICE = np.dtype(
    [
        ("device_class", "<i4"),
        ("role", "<i4"),
        ("activity", "<i4"),
        ("result", "<i4"),
        ("valid", "u1"),
        ("connected", "u1"),
        ("has_battery", "u1"),
        ("charging", "u1"),
        ("matrix", "<f4", (3, 4)),
        ("velocity", "<f4", (3,)),
        ("angular_velocity", "<f4", (3,)),
        ("battery", "<f4"),
        ("packet", "<u4"),
        ("pressed", "<u8"),
        ("touched", "<u8"),
        ("axis", "<f4", (5, 2)),
        ("serial", "S64"),
        ("model", "S64"),
        ("manufacturer", "S64"),
        ("tracking_system", "S64"),
        ("controller_type", "S64"),
        ("render_model", "S64"),
    ],
    align=True,
)
"""A device as it is at one instant; the pose is in the standing universe."""
SLOT = np.dtype([("turn", "<u4"), ("record", DEVICE, (2,))], align=True)
"""Place of a device: its newest record is ``record[turn % 2]``, the other one is written next."""
HAPTIC = np.dtype(
    [
        ("device", "<u4"),
        ("axis", "<u4"),
        ("duration_us", "<u4"),
        ("pad", "<u4"),
        ("stamp_ns", "<i8"),
    ],
    align=True,
)


def state_type(openvr: Any) -> np.dtype[Any]:
    """Layout of the whole state file."""
    event = np.dtype(
        [
            ("type", "<u4"),
            ("device", "<u4"),
            ("stamp_ns", "<i8"),
            ("data", "u1", (_event_data_size(openvr),)),
        ],
        align=True,
    )
    return np.dtype(
        [
            ("init_error", "<i4"),
            ("hmd_present", "<u4"),
            ("input_available", "<u4"),
            ("application", "<i4"),
            ("attempts", "<u4"),
            ("inits", "<u4"),
            ("cleanups", "<u4"),
            ("unlisted_calls", "<u4"),
            ("unlisted_name", "S64"),
            ("acknowledged_ns", "<i8"),
            ("event_head", "<u4"),
            ("haptic_head", "<u4"),
            ("raw_to_standing", "<f4", (3, 4)),
            ("seated_to_standing", "<f4", (3, 4)),
            ("devices", SLOT, (DEVICES,)),
            ("events", event, (EVENTS,)),
            ("haptics", HAPTIC, (HAPTICS,)),
        ],
        align=True,
    )


def load_openvr() -> Any:
    """The installed package.

    Raises:
        MissingExtraError: it is not installed.
        DeviceError: its library does not load on this machine.
    """
    try:
        import openvr
    except ImportError as error:
        raise MissingExtraError("openvr", "vr", "the emulated SteamVR") from error
    except (OSError, ValueError) as error:
        raise DeviceError(f"emulated SteamVR: openvr's library does not load: {error}") from error
    return openvr


def install(runtime: Path) -> None:
    """Put the library where OpenVR looks for it below a runtime's folder.

    Raises:
        DeviceError: there is no C compiler, or it failed.
        MissingExtraError: openvr is not installed.
    """
    built = library()
    place = runtime / "bin" / "linux64"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place, delete=False) as new:
        shutil.copyfile(built, new.name)
    # Renamed, not overwritten: a client may have the old one loaded.
    Path(new.name).replace(place / "vrclient.so")


def library() -> Path:
    """The built library, from the user's cache folder if it is there.

    Raises:
        DeviceError: there is no C compiler, or it failed.
        MissingExtraError: openvr is not installed.
    """
    headers = {
        "openvr_abi.h": "\n".join(_header(load_openvr(), SOURCE.read_text())),
        _TYPES.name: _TYPES.read_text(),
    }
    return c_library("emulated SteamVR", SOURCE, ("-std=gnu11", "-lm"), headers)


def _header(openvr: Any, source: str) -> Iterator[str]:
    """Lines of ``openvr_abi.h``."""
    yield f"enum {{ DEVICES = {DEVICES}, EVENTS = {EVENTS}, HAPTICS = {HAPTICS} }};"
    for kind in ("TrackedDevicePose_t", "VRControllerState_t", "VREvent_t"):
        structure = getattr(openvr, kind)
        yield f"enum {{ SIZE_{kind} = {ctypes.sizeof(structure)} }};"
        for name, _ in structure._fields_:
            yield f"enum {{ OFFSET_{kind}_{name} = {getattr(structure, name).offset} }};"
    yield f"enum {{ EVENT_DATA_SIZE = {_event_data_size(openvr)} }};"
    for name in sorted(set(re.findall(r"\bVR_(\w+)", source))):
        yield f"#define VR_{name} {int(getattr(openvr, name)) & 0xFFFFFFFF:#x}"
    yield from _names(openvr)
    yield from _structures(state_type(openvr))
    yield "typedef struct { const char *version; void *const *slots; } interface_t;"
    versions = {name: getattr(openvr, f"IVR{name}_Version") for name in _INTERFACES}
    rows = "".join(f'{{"{version}", {name}}}, ' for name, version in versions.items())
    tables = " ".join(_table(openvr, name, source) for name in _INTERFACES)
    yield f"#define INTERFACES {tables} static const interface_t interfaces[] = {{{rows}{{0, 0}}}};"


def _table(openvr: Any, interface: str, source: str) -> str:
    """The function table of an interface, in C; what an older release lacks goes unused."""
    slots = [name for name, _ in getattr(openvr, f"IVR{interface}_FnTable")._fields_]
    served = re.findall(rf"^{interface.upper()}\([\w *]+, (\w+)\)", source, re.MULTILINE)
    functions = " ".join(
        f'static intptr_t {interface}_{name}(void) {{ return unlisted("{interface}.{name}"); }}'
        for name in slots
        if name not in served
    )
    table = ", ".join(f"{interface}_{name}" for name in slots)
    return f"{functions} static void *const {interface}[] = {{{table}}};"


def _names(openvr: Any) -> Iterator[str]:
    yield "typedef struct { int value; const char *name; } name_t;"
    for prefix in _NAMED_ENUMS:
        values = {
            int(value): name
            for name, value in reversed(list(vars(openvr).items()))
            if name.startswith(f"{prefix}_") and isinstance(value, int)
        }
        rows = ", ".join(f'{{{value}, "{name}"}}' for value, name in sorted(values.items()))
        yield f"static const name_t names_{prefix}[] = {{ {rows}, {{0, 0}} }};"
    yield (
        "static const char *name_of(const name_t *n, int value) {"
        ' for (; n->name; n++) if (n->value == value) return n->name; return "unknown"; }'
    )


def _structures(state: np.dtype[Any]) -> Iterator[str]:
    names = {DEVICE: "device_t", SLOT: "slot_t", HAPTIC: "haptic_t", state: "state_t"}
    names[_element(state["events"])] = "queued_t"
    ordered = [DEVICE, SLOT, _element(state["events"]), HAPTIC, state]
    for dtype in ordered:
        yield "typedef struct {"
        for field in dtype.names or ():
            element, shape = _element(dtype[field]), dtype[field].shape
            if element.kind == "S":
                shape, c_type = (*shape, element.itemsize), "char"
            else:
                c_type = names.get(element) or _C_TYPES[element.str]
            yield f"    {c_type} {field}{''.join(f'[{n}]' for n in shape)};"
        yield f"}} {names[dtype]};"
        yield f'_Static_assert(sizeof({names[dtype]}) == {dtype.itemsize}, "{names[dtype]}");'
        for field, (_, offset, *_) in (dtype.fields or {}).items():
            yield f'_Static_assert(offsetof({names[dtype]}, {field}) == {offset}, "{field}");'


def _element(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.subdtype[0] if dtype.subdtype else dtype


def _event_data_size(openvr: Any) -> int:
    event = openvr.VREvent_t
    return int(ctypes.sizeof(event)) - int(event.data.offset)
