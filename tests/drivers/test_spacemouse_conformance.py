"""The stand-in for hidapi under the whole public API of pyspacemouse, without our driver.

Each client is a program of its own, since easyhid binds to one hidapi when it is imported.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from drivers.emulated.spacemouse.hid_mouse import MODELS, HidMouse
from drivers.emulated.stand_in import PuckPush
from tests.drivers.hid_client import PRELUDE, Desk
from tests.waiting import wait_until

if find_spec("pyspacemouse") is None:
    pytest.skip("pyspacemouse is not installed", allow_module_level=True)

MOVED = (10, 20, 30, 40, 50, 60)
SPLIT = (struct.pack("<B3h", 1, *MOVED[:3]), struct.pack("<B3h", 2, *MOVED[3:]))
SINGLE = (struct.pack("<B6h", 1, *MOVED),)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def wait_until_opened(puck: HidMouse, times: int = 1) -> None:
    wait_until(lambda: puck.opened == times, f"{puck.name} to be opened {times} times")


def node(puck: HidMouse) -> str:
    return str(puck.link.resolve())


@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "loaded before"])
def test_pucks_are_discovered_and_opened(desk: Desk, preload: bool) -> None:
    """By name, index and path, however the library came in; with the words of the device."""
    first, second = desk.puck("first"), desk.puck("second", "SpaceMouseWireless")
    client = desk.client(
        """
        tell(sm.get_connected_devices(), sm.get_connected_devices_by_path())
        tell(sm.get_all_hid_devices())
        hid = sm.AxisConvention.HID
        for device in (
            sm.open(axis_convention=hid),
            sm.open(device="SpaceMouseWireless", axis_convention=hid),
            sm.open(device_index=7, axis_convention=hid),
            sm.open_by_path(sys.stdin.readline().strip(), axis_convention=hid),
            sm.open_with_config(sm.Config(), device="SpaceNavigator", axis_convention=hid),
        ):
            with device:
                tell(device.name, device.product_name, device.vendor_name, device.connected,
                     device.version_number, device.serial_number, device.info.name)
            tell(device.connected, device.describe_connection())
        try:
            sm.open_by_path("/dev/null", axis_convention=hid)
        except FileNotFoundError as error:
            tell(str(error))
        """,
        preload,
    )
    names = ["SpaceNavigator", "SpaceMouseWireless"]
    assert client.heard() == [names, dict(zip((node(first), node(second)), names, strict=True))]
    assert client.heard() == [
        [["SpaceNavigator", "3Dconnexion", 0x046D, 0xC626],
         ["SpaceMouse Wireless", "3Dconnexion", 0x256F, 0xC62E]]
    ]  # fmt: skip
    client.go(str(second.link))
    for index in (0, 1, 0, 1, 0):
        heard = client.heard()
        assert heard == [names[index], heard[1], "3Dconnexion", True, "256", "", names[index]]
        assert client.heard() == [False, f"{names[index]} [disconnected]"]
    assert client.heard() == ["No HID device found at path '/dev/null'."]


CONVENTIONS = {
    "HID": [10, 20, 30, 40, 50, 60],
    "HID_Z_UP": [10, -20, -30, 40, -50, -60],
    "ROS": [-20, -10, -30, -50, -40, -60],
    "UNITY": [10, -30, -20, -40, 60, 50],
    "LEGACY": [10, -20, -30, -50, -40, 60],
}
"""How each turns x right, y to the operator, z down, and rotation about them."""


def test_reports_are_read_in_every_convention(desk: Desk) -> None:
    """Two reports of a split model, one per read; the state is one object."""
    puck = desk.puck("puck")
    client = desk.client(
        """
        tell([convention.name for convention in sm.AxisConvention])
        warnings.simplefilter("ignore")
        for name in sys.stdin.readline().split():
            with sm.open(axis_convention=sm.AxisConvention[name]) as device:
                tell("open")
                go()
                first, second = device.read(), device.read()
                tell(axes(second), first is second, second.has_motion(0.1), device.read().t > 0)
        """
    )
    assert set(client.heard()[0]) == set(CONVENTIONS)
    client.go(" ".join(CONVENTIONS))
    for count, expected in enumerate(CONVENTIONS.values(), 1):
        client.heard()
        wait_until_opened(puck, count)
        puck.report(*SPLIT)
        client.go()
        assert client.heard() == [expected, True, True, True]


def test_every_kind_of_puck_is_decoded(desk: Desk) -> None:
    """All that pyspacemouse knows: ids, six axes of both layouts, and every button it lists."""
    pucks = {name: desk.puck(f"p{i}", name) for i, name in enumerate(MODELS)}
    client = desk.client(
        """
        opened = {
            name: sm.open_by_path(path, axis_convention=sm.AxisConvention.HID)
            for path, name in sm.get_connected_devices_by_path().items()
        }
        tell(sorted(sm.get_supported_devices()))
        go()
        for name, device in sorted(opened.items()):
            drain(device)
            state = device.read()
            specs, names = device.info.button_specs, device.info.button_names
            pressed = [device.get_button_name(i) for i, b in enumerate(state.buttons) if b]
            tell(name, axes(state), pressed == list(names), len(names) == len(specs))
        """
    )
    assert client.heard() == [[[n, m.vendor, m.product] for n, m in sorted(MODELS.items())]]
    for name, puck in pucks.items():
        wait_until_opened(puck)
        all_pressed = b"\x03" + b"\xff" * MODELS[name].button_bytes
        puck.report(*(SPLIT if MODELS[name].split else SINGLE), all_pressed)
    client.go()
    for name in sorted(MODELS):
        assert client.heard() == [name, list(MOVED), True, True]


def test_callbacks_hear_axes_and_buttons(desk: Desk) -> None:
    """General ones, one per axis and direction, one per button and per chord."""
    puck = desk.puck("puck")
    client = desk.client(
        """
        heard = []
        note = lambda name: lambda *what: heard.append(name)
        config = sm.Config(
            callback=note("all"),
            dof_callback=note("dof"),
            dof_callbacks=[sm.DofCallback("x", note("x+"), 0.0, note("x-"), 0.01)],
            button_callback=note("button"),
            button_callbacks=[
                sm.ButtonCallback(0, note("left")), sm.ButtonCallback([0, 1], note("both"))
            ],
        )
        with sm.open_with_config(config, axis_convention=sm.AxisConvention.HID) as device:
            tell("open")
            go()
            wait(device, lambda state: state.buttons == [0, 0] and "both" in heard)
            tell(sorted(set(heard)), int(sm.ButtonState([0, 1])))
            device.clear_callbacks()
            device.configure(callback=sm.silent_callback)
            device.set_config(config)
            sm.print_state(device.state)
            sm.print_buttons(device.state, device.state.buttons)
        """
    )
    client.heard()
    wait_until_opened(puck)
    back = struct.pack("<B3h", 1, -10, 0, 0)
    puck.report(*SPLIT, back, b"\x03\x01\x00", b"\x03\x03\x00", b"\x03\x00\x00")
    client.go()
    told = ["all", "both", "button", "dof", "left", "x+", "x-"]
    assert client.heard() == [told, 1]


def test_the_lamp_and_custom_descriptions(desk: Desk) -> None:
    """The lamp by output report 4; a description made by hand, one changed, one converted."""
    puck = desk.puck("puck", "SpaceMouseWirelessNew")
    client = desk.client(
        """
        with sm.open(axis_convention=sm.AxisConvention.ROS) as device:
            device.set_led(True)
            device.set_led(False)
            tell("lit")
        built_in = sm.load_device_specs()["SpaceMouseWirelessNew"]
        assert built_in == sm.get_device_specs()["SpaceMouseWirelessNew"]
        custom = sm.create_device_info(
            "mine", 0x256F, 0xC63A, {"x": (1, 3, 4, -1), "yaw": (1, 11, 12, 1)},
            {"ONLY": (3, 1, 1)}, axis_scale=700.0,
        )
        turned = sm.modify_device_info(
            sm.apply_axis_convention(built_in, sm.AxisConvention.HID),
            remap_axes={"x": ("y", -1)},
        )
        for spec in (custom, turned):
            with sm.open(device_spec=spec) as device:
                tell("open")
                state = wait(device, lambda state: state.x != 0)
                tell(device.name, axes(state), device.get_button_name(0))
        fields = [sm.AxisSpec(1, 1, 2, 1), sm.ButtonSpec(3, 1, 0)]
        device = sm.SpaceMouseDevice(custom)
        assert isinstance(custom, sm.DeviceInfo) and isinstance(device.state, sm.SpaceMouseState)
        try:
            device.open()
        except RuntimeError as error:
            tell(str(error), str(sm.Axis), sm.__version__, len(fields))
        """
    )
    client.heard()
    wait_until(lambda: puck.lamp_writes == [b"\x00\x04\x01", b"\x00\x04\x00"], "the lamp")
    for count, expected in (
        (2, ["mine", [-10, 0, 0, 0, 0, 30], "ONLY"]),
        (3, ["SpaceMouseWirelessNew", [-20, 20, 30, 40, 50, 60], "LEFT"]),
    ):
        client.heard()
        wait_until_opened(puck, count)
        puck.report(*SINGLE)
        assert client.heard() == expected
    assert client.heard()[0] == "No HID device assigned to this SpaceMouseDevice"


def test_two_pucks_of_one_kind_are_read_apart(desk: Desk) -> None:
    """By index, at the same time."""
    left, right = desk.puck("left"), desk.puck("right")
    client = desk.client(
        """
        ros = sm.AxisConvention.ROS
        devices = [sm.open(device_index=i, axis_convention=ros) for i in range(2)]
        tell("open")
        for device, sign in zip(devices, (1, -1)):
            wait(device, lambda state: abs(state.y - 0.6 * sign) < 0.01)
        tell([sorted({round(device.read().y, 1) for _ in range(50)}) for device in devices])
        """
    )
    client.heard()
    for sign, puck in ((1.0, left), (-1.0, right)):
        puck.move(puck.name, PuckPush(np.array([0.0, 0.6 * sign, 0.0]), np.zeros(3)))
    assert client.heard() == [[[0.6], [-0.6]]]


def test_a_blocking_read_waits_and_lets_other_threads_run(desk: Desk) -> None:
    """It returns with the next report."""
    puck = desk.puck("puck")
    client = desk.client(
        """
        import threading
        device = sm.open(nonblocking=False, axis_convention=sm.AxisConvention.HID)
        threading.Timer(0.05, lambda: tell("another thread")).start()
        tell(axes(device.read())[:3])
        """
    )
    assert client.heard() == ["another thread"]
    puck.report(*SPLIT)
    assert client.heard() == [[10, 20, 30]]


def test_faults_look_as_they_do_on_linux(desk: Desk) -> None:
    """Not openable, more reports than the kernel keeps, unplugged, gone from the list."""
    puck = desk.puck("puck")
    puck.refuse(True)
    client = desk.client(
        """
        hid = sm.AxisConvention.HID
        try:
            sm.open(axis_convention=hid)
        except RuntimeError as error:
            tell(str(error))
        go()
        device = sm.open(axis_convention=hid)
        tell("open")
        go()
        count = 0
        while True:
            before = device.read().t
            count += 1
            if device.read().t == before: break
            count += 1
        tell(count, axes(device.read())[0])
        go()
        try:
            wait(device, lambda state: False)
        except HIDException as error:
            tell(str(error), device.connected, axes(device._state)[0])
        device.close()
        tell(axes(device.read())[0], sm.get_connected_devices())
        try:
            sm.open(axis_convention=hid)
        except RuntimeError as error:
            tell(str(error))
        """
    )
    assert client.heard() == ["Failed to open device"]
    puck.refuse(False)
    client.go()
    client.heard()
    wait_until_opened(puck)
    push = struct.pack("<B3h", 1, 350, 0, 0)
    puck.report(*[push] * 100, struct.pack("<B3h", 1, 0, 0, 0))
    client.go()
    assert client.heard() == [63, 350], "the kernel keeps 63 and drops the release"
    puck.unplug()
    client.go()
    assert client.heard() == ["Failed to read from HID device: -1", True, 350]
    assert client.heard() == [350, []], "read() after close() returns the last state"
    assert client.heard() == ["No connected or supported devices found."]


def test_easyhid_below_is_served_too(desk: Desk) -> None:
    """Searching, the device's words, and what such a device does not have."""
    desk.puck("a", "UniversalReceiver", 0)
    face = desk.puck("b", "UniversalReceiver", 1)
    client = desk.client(
        """
        found = Enumeration(vid=0x256F, pid=0xC652).find(interface=1, usage_page=1, usage=8)
        tell([device.path for device in found], len(Enumeration(vid=0x046D).device_list))
        device, = found
        tell(device.is_connected(), device.is_open())
        device.open()
        tell(device.is_connected(), device.is_open())
        tell(device.get_product_string(), device.get_manufacture_string())
        device.set_nonblocking(True)
        tell(len(device.read()), len(device.read(timeout=1)), device.write([4, 1]))
        for ask in (lambda: device.get_feature_report(4), lambda: device.send_feature_report([1])):
            try:
                ask()
            except HIDException as error:
                tell(str(error))
        tell(device.description().splitlines()[0])
        """
    )
    assert client.heard() == [[node(face)], 0]
    assert client.heard() == [True, False]
    assert client.heard() == [True, True]
    assert client.heard() == ["3Dconnexion Universal Receiver", "3Dconnexion"]
    assert client.heard() == [0, 0, 3]
    assert client.heard() == ["Failed to get feature report from HID device"]
    assert client.heard() == ["Failed to send feature report to HID device"]
    assert client.heard() == ["HIDDevice:"]
    wait_until(lambda: face.lamp is True, "the lamp")


def test_the_whole_public_api_is_spoken_here(desk: Desk) -> None:
    """A name that a later pyspacemouse adds is to be tried here too."""
    desk.puck("any")
    public = desk.client("tell(sm.__all__)").heard()[0]
    spoken = PRELUDE + Path(__file__).read_text(encoding="utf-8")
    assert [name for name in public if f"sm.{name}" not in spoken] == []
