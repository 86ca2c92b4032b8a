"""The emulated OpenVR runtime, seen by a second program with the real package and no driver."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from drivers.emulated.vr import abi as vr_abi
from drivers.emulated.vr.runtime import VrRuntime
from tests.drivers.vr_bench import (
    TRACKER,
    Client,
    hand_at,
    inputs_of,
    run_python,
    skip_without_openvr,
    turned_about,
)

skip_without_openvr()

BACKGROUND = "vs := openvr.init(openvr.VRApplication_Background)"
POSES = "vs.getDeviceToAbsoluteTrackingPose(openvr.TrackingUniverse{}, {}, 64)[{}]"
POLL = "[vs.pollNextEvent(event), event.eventType, event.trackedDeviceIndex, event.eventAgeSeconds]"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[VrRuntime]:
    """SteamVR with a controller in each hand and a tracker; every call must have been served."""
    made = VrRuntime(inputs_of(tmp_path, left="left", right="right", tracker=TRACKER))
    made.start()
    yield made
    assert made.counts()["unlisted_calls"] == 0
    made.close()


@pytest.fixture
def open_client(runtime: VrRuntime) -> Iterator[Callable[[], Client]]:
    """Starts programs and ends them after the test."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(runtime.runtime))
        return made[-1]

    yield make
    for client in made:
        client.kill()


@pytest.fixture
def ask(open_client: Callable[[], Client]) -> Client:
    """One program, in SteamVR."""
    client = open_client()
    assert client(BACKGROUND) == "IVRSystem"
    return client


def matrix_of(pose: dict[str, object]) -> np.ndarray:
    """Shape (3, 4)."""
    return np.array(pose["mDeviceToAbsoluteTracking"]["m"])  # type: ignore[index]


def test_before_init_the_package_finds_the_runtime(
    runtime: VrRuntime, open_client: Callable[[], Client]
) -> None:
    """The functions that may be called without having been let in."""
    ask = open_client()
    assert ask("openvr.isRuntimeInstalled()")
    assert ask("openvr.isHmdPresent()")
    assert ask("openvr.getRuntimePath()") == str(runtime.runtime)
    assert "not running" not in ask("openvr.getVRInitErrorAsEnglishDescription(121)")
    assert ask("openvr.getVRInitErrorAsSymbol(108)") == "VRInitError_Init_HmdNotFound"


@pytest.mark.parametrize("kind", ["Background", "Other", "Scene", "Overlay", "Utility"])
def test_every_kind_of_program_is_let_in(
    runtime: VrRuntime, open_client: Callable[[], Client], kind: str
) -> None:
    """And sees the interface, its version, and names of errors."""
    ask = open_client()
    assert ask(f"vs := openvr.init(openvr.VRApplication_{kind})") == "IVRSystem"
    assert ask("vs.getRuntimeVersion()") == "0.0.0 (emulated)"
    assert ask("openvr.isInterfaceVersionValid(openvr.IVRSystem_Version)")
    assert not ask("openvr.isInterfaceVersionValid('IVRSystem_001')")
    assert ask("openvr.getGenericInterface('FnTable:' + openvr.IVRSystem_Version)") > 0
    assert ask("openvr.getVRInitErrorAsSymbol(121)").endswith("NoServerForBackgroundApp")
    assert ask("openvr.getInitToken()") > 0
    assert ask("openvr.shutdown()") is None


def test_an_interface_that_is_not_emulated_is_refused_cleanly(ask: Client) -> None:
    """Action bindings, pictures: an error, no crash, and the program may come again."""
    for interface in ("VRInput", "VRChaperone", "VROverlay", "VRRenderModels"):
        assert str(ask(f"openvr.{interface}()")).startswith("raised ")
        assert ask(BACKGROUND) == "IVRSystem"  # the package has shut itself down


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (100, "Init_InstallationNotFound"),
        (108, "Init_HmdNotFound"),
        (119, "Init_ShuttingDown"),
        (121, "Init_NoServerForBackgroundApp"),
        (301, "IPC_ConnectFailed"),
    ],
)
def test_a_refusal_reaches_the_program(
    runtime: VrRuntime, open_client: Callable[[], Client], code: int, name: str
) -> None:
    """And the next attempt may succeed."""
    ask = open_client()
    runtime.fail_init(code)
    assert ask(BACKGROUND) == f"raised InitError_{name}"
    runtime.fail_init(0)
    assert ask(BACKGROUND) == "IVRSystem"


def test_without_a_server_every_program_is_refused(tmp_path: Path) -> None:
    """The library lies there, SteamVR does not run."""
    vr_abi.install(tmp_path)
    ask = Client(tmp_path)
    try:
        assert ask(BACKGROUND) == "raised InitError_Init_NoServerForBackgroundApp"
        other = "openvr.init(openvr.VRApplication_Other)"
        assert ask(other) == "raised InitError_IPC_ConnectFailed"
        assert not ask("openvr.isHmdPresent()")
    finally:
        ask.kill()


def test_a_program_may_come_and_go_fifty_times(runtime: VrRuntime) -> None:
    """Each time the library is loaded and unloaded; no call fails, none is left behind."""
    script = f"""
import openvr
for i in range(50):
    vs = openvr.init(openvr.VRApplication_Background)
    poses = vs.getDeviceToAbsoluteTrackingPose(openvr.TrackingUniverseStanding, 0, 64)
    assert poses[{runtime.index_of("left")}].bPoseIsValid, i
    vs.triggerHapticPulse({runtime.index_of("left")}, 0, i)
    openvr.shutdown()
print("done")
"""
    assert run_python(script, runtime.runtime) == "done\n"
    counts = runtime.counts()
    assert (counts["inits"], counts["cleanups"]) == (50, 50)
    assert len(runtime.haptics()) == 50


def test_a_program_that_just_ends_harms_nobody(
    runtime: VrRuntime, open_client: Callable[[], Client]
) -> None:
    """Without shutdown, or killed in the middle; others go on."""
    stays, goes, dies = open_client(), open_client(), open_client()
    for ask in (stays, goes, dies):
        ask(BACKGROUND)
    assert goes.leave() == 0
    dies.kill()
    runtime.move("left", hand_at(0.5))
    pose = stays(POSES.format("Standing", 0, runtime.index_of("left")))
    assert matrix_of(pose)[0, 3] == pytest.approx(0.5)


# Devices and their properties


def test_the_devices_are_listed(runtime: VrRuntime, ask: Client) -> None:
    """By class, connection, role, activity, and in order."""
    classes = ask("[vs.getTrackedDeviceClass(i) for i in range(8)]")
    assert classes == [1, 4, 4, 2, 2, 3, 0, 0]
    assert ask("[vs.isTrackedDeviceConnected(i) for i in range(7)]") == [1] * 6 + [0]
    left, right = runtime.index_of("left"), runtime.index_of("right")
    role = "vs.getTrackedDeviceIndexForControllerRole(openvr.TrackedControllerRole_{}Hand)"
    assert [ask(role.format("Left")), ask(role.format("Right"))] == [left, right]
    roles = ask("[vs.getControllerRoleForTrackedDeviceIndex(i) for i in range(7)]")
    assert roles == [0, 0, 0, 1, 2, 0, 0]
    # The package fails on an array of its own, so this one goes to the function below it.
    ask("places := (openvr.TrackedDeviceIndex_t * 4)()")
    ordered = "vs.function_table.getSortedTrackedDeviceIndicesOfClass(2, places, 4, 0)"
    assert (ask(ordered), ask("places")) == (2, [left, right, 0, 0])
    assert ask("vs.getSortedTrackedDeviceIndicesOfClass(2, None)") == [2, None]
    assert ask(f"vs.getTrackedDeviceActivityLevel({left})") == 1
    unknown = ask("vs.getTrackedDeviceActivityLevel(63)")  # the package has it unsigned
    assert unknown == ask("openvr.k_EDeviceActivityLevel_Unknown") & 0xFFFFFFFF
    runtime.unplug("left")
    assert ask(role.format("Left")) == 0xFFFFFFFF
    assert ask(f"vs.getTrackedDeviceClass({left})") == 2


def test_properties_have_values_or_say_why_not(runtime: VrRuntime, ask: Client) -> None:
    """Of each type, with each of the errors a program meets."""
    tracker = runtime.index_of("tracker")
    text = f"vs.getStringTrackedDeviceProperty({tracker}, openvr.Prop_{{}}_String)"
    assert ask(text.format("SerialNumber")) == TRACKER
    assert ask(text.format("ControllerType")) == "vive_tracker_handed"
    assert ask(text.format("TrackingSystemName")) == "lighthouse"
    for name in ("ModelNumber", "ManufacturerName", "RenderModelName"):
        assert ask(text.format(name))
    assert ask(text.format("ConnectedWirelessDongle")) == "raised TrackedProp_UnknownProperty"
    runtime.set_battery("tracker", 0.25, charging=True)
    number = "vs.get{1}TrackedDeviceProperty({0}, openvr.Prop_{2}_{1})"
    assert ask(number.format(tracker, "Float", "DeviceBatteryPercentage")) == 0.25
    assert ask(number.format(tracker, "Bool", "DeviceIsCharging")) == 1
    assert ask(number.format(tracker, "Bool", "DeviceProvidesBatteryStatus")) == 1
    assert ask(number.format(tracker, "Int32", "DeviceClass")) == 3
    assert ask(number.format(4, "Int32", "ControllerRoleHint")) == 2
    assert ask(number.format(0, "Uint64", "CurrentUniverseId")) == 1
    unknown = "raised TrackedProp_UnknownProperty"
    assert ask(number.format(tracker, "Matrix34", "StatusDisplayTransform")) == unknown
    assert ask(number.format(1, "Float", "DeviceBatteryPercentage")).endswith("NotProvidedByDevice")
    assert ask(number.format(40, "Int32", "DeviceClass")) == "raised TrackedProp_InvalidDevice"
    wrong = f"vs.getFloatTrackedDeviceProperty({tracker}, openvr.Prop_SerialNumber_String)"
    assert ask(wrong) == "raised TrackedProp_WrongDataType"
    array = (
        f"vs.getArrayTrackedDeviceProperty({tracker}, 2055, openvr.k_unHmdMatrix34PropertyTag,"
        " openvr.HmdMatrix34_t(), 48)"
    )
    assert ask(array) == unknown
    assert ask("vs.getPropErrorNameFromEnum(3)") == "TrackedProp_BufferTooSmall"


# Poses


def test_poses_are_told_in_three_universes(runtime: VrRuntime, ask: Client) -> None:
    """A pose as it was set, and as seen from the seated and the raw origin."""
    index = runtime.index_of("left")
    turn = turned_about((0.0, 1.0, 0.0), math.pi / 2)
    runtime.move("left", hand_at(0.1, 1.2, -0.3, quaternion_wxyz=turn))
    standing = ask(POSES.format("Standing", 0, index))
    assert (standing["bPoseIsValid"], standing["bDeviceIsConnected"]) == (1, 1)
    assert standing["eTrackingResult"] == 200
    expected = np.array([[0, 0, 1, 0.1], [0, 1, 0, 1.2], [-1, 0, 0, -0.3]])
    np.testing.assert_allclose(matrix_of(standing), expected, atol=1e-6)
    for universe, zero in (
        ("Seated", "vs.getSeatedZeroPoseToStandingAbsoluteTrackingPose()"),
        ("RawAndUncalibrated", "vs.getRawZeroPoseToStandingAbsoluteTrackingPose()"),
    ):
        to_standing = np.vstack((ask(zero)["m"], (0, 0, 0, 1)))
        there = np.vstack((matrix_of(ask(POSES.format(universe, 0, index))), (0, 0, 0, 1)))
        np.testing.assert_allclose((to_standing @ there)[:3], expected, atol=1e-6)
    assert len(ask(POSES.format("Standing", 0, "0:64"))) == 64
    nothing = ask(POSES.format("Standing", 0, 20))
    assert (nothing["bDeviceIsConnected"], nothing["eTrackingResult"]) == (0, 1)


def test_poses_are_predicted_from_the_velocities(runtime: VrRuntime, ask: Client) -> None:
    """Half a second on at 0.4 m/s and a quarter turn per second."""
    index = runtime.index_of("left")
    runtime.move("left", hand_at(0.0, 1.0, 0.0))
    runtime.coast("left", np.array([0.4, 0.0, 0.0]), np.array([0.0, math.pi / 2, 0.0]))
    later = ask(POSES.format("Standing", 0.5, index))
    half = math.sqrt(0.5)
    expected = np.array([[half, 0, half, 0.2], [0, 1, 0, 1.0], [-half, 0, half, 0]])
    np.testing.assert_allclose(matrix_of(later), expected, atol=1e-6)
    assert later["vVelocity"]["v"] == pytest.approx([0.4, 0.0, 0.0])


def test_a_transform_is_applied_to_a_pose_and_its_velocity(runtime: VrRuntime, ask: Client) -> None:
    """The package's helper, which the runtime computes."""
    runtime.coast("left", np.array([1.0, 0.0, 0.0]), np.zeros(3))
    pose = POSES.format("Standing", 0, runtime.index_of("left"))
    ask("by := openvr.HmdMatrix34_t()")
    ask("[by.m[0].__setitem__(2, 1), by.m[1].__setitem__(1, 1), by.m[2].__setitem__(0, -1)]")
    moved = ask(f"vs.applyTransform({pose}, by)")
    assert moved["vVelocity"]["v"] == pytest.approx([0.0, 0.0, -1.0])


def test_lost_tracking_looks_as_it_does_in_steamvr(runtime: VrRuntime, ask: Client) -> None:
    """Guessed poses are valid with another result; a device that is off has none."""
    index = runtime.index_of("left")
    runtime.lose_tracking("left")
    pose = ask(POSES.format("Standing", 0, index))
    assert (pose["bPoseIsValid"], pose["eTrackingResult"]) == (1, 201)
    runtime.find_tracking("left")
    assert ask(POSES.format("Standing", 0, index))["eTrackingResult"] == 200
    runtime.unplug("left")
    pose = ask(POSES.format("Standing", 0, index))
    assert (pose["bPoseIsValid"], pose["bDeviceIsConnected"]) == (0, 0)


def test_poses_come_in_step_with_a_display(runtime: VrRuntime, ask: Client) -> None:
    """For programs that are made to draw and wait for the next picture."""
    runtime.move("left", hand_at(0.5))
    index = runtime.index_of("left")
    render, _ = ask("openvr.VRCompositor().waitGetPoses([], None)")
    assert matrix_of(render[index])[0, 3] == pytest.approx(0.5)
    render, game = ask("openvr.VRCompositor().getLastPoses([], [])")
    assert matrix_of(game[index])[0, 3] == matrix_of(render[index])[0, 3] == pytest.approx(0.5)
    waited = "openvr.VRCompositor().waitGetPoses([], None) and time.monotonic()"
    stamps = [ask(waited) for _ in range(5)]
    assert stamps[-1] - stamps[0] > 3 / 90


# Buttons, events, haptics


def test_controller_states_change_with_the_packet_number(runtime: VrRuntime, ask: Client) -> None:
    """Pressed, touched, axes; the number stays while nothing changes."""
    index = runtime.index_of("right")
    state = f"vs.getControllerState({index})"
    first = ask(state)[1]["unPacketNum"]
    runtime.move("right", hand_at(0.0, trigger=0.75, stick=(0.5, -0.25), buttons={"b"}))
    answered, now = ask(state)
    assert (answered, now["unPacketNum"]) == (1, first + 1)
    assert now["ulButtonPressed"] == now["ulButtonTouched"] == 1 << 33 | 1 << 1
    assert (now["rAxis"][0], now["rAxis"][1]["x"]) == ({"x": 0.5, "y": -0.25}, 0.75)
    runtime.move("right", hand_at(0.3, trigger=0.75, stick=(0.5, -0.25), buttons={"b"}))
    with_pose = f"vs.getControllerStateWithPose(openvr.TrackingUniverseStanding, {index})"
    answered, now, pose = ask(with_pose)
    assert (now["unPacketNum"], matrix_of(pose)[0, 3]) == (first + 1, pytest.approx(0.3))
    runtime.freeze_buttons("right")
    assert ask(state)[:1] == [1]
    assert ask(state)[1]["unPacketNum"] == 0
    runtime.unplug("right")
    assert [ask(state)[0], ask("vs.getControllerState(1)")[0]] == [0, 0]


def test_events_are_told_once_to_each_program(
    runtime: VrRuntime, open_client: Callable[[], Client]
) -> None:
    """From when it came, with age, device and button; three ways of asking."""
    one, two = open_client(), open_client()
    for ask in (one, two):
        ask(BACKGROUND)
        assert ask("vs.pollNextEvent(event)") is False
    runtime.move("right", hand_at(0.0, buttons={"a"}))
    index = runtime.index_of("right")
    for ask in (one, two):
        assert ask(POLL)[:3] == [True, 200, index]
        assert ask("event.data.controller.button") == 7
        assert ask("event.eventAgeSeconds >= 0")
        assert ask("vs.getEventTypeNameFromEnum(event.eventType)") == "VREvent_ButtonPress"
        assert ask(POLL)[0] is False
    runtime.move("right", hand_at(0.5))
    answered, event, pose = one("vs.pollNextEventWithPose(openvr.TrackingUniverseStanding, event)")
    assert (answered, event["eventType"]) == (1, 201)
    assert matrix_of(pose)[0, 3] == pytest.approx(0.5)
    overlays = "vs.pollNextEventWithPoseAndOverlays(openvr.TrackingUniverseStanding, event)"
    assert one(overlays)[0] == 0
    runtime.unplug("right")
    runtime.replug("right")
    assert [one(POLL)[1:3] for _ in range(2)] == [[101, index], [100, index + 2]]


def test_a_program_that_slept_gets_the_newest_events(runtime: VrRuntime, ask: Client) -> None:
    """The queue holds 256; older ones are lost, not the newer."""
    for i in range(300):
        runtime.send_event(200, i)
    assert ask(POLL)[2] == 300 - 256
    polled = ask("sum(vs.pollNextEvent(event) for _ in range(1000))")
    assert (polled, ask("event.trackedDeviceIndex")) == (255, 299)


def test_a_quit_is_told_and_its_acknowledgement_seen(runtime: VrRuntime, ask: Client) -> None:
    """And nobody is let in until SteamVR is started again."""
    runtime.quit()
    assert ask(POLL)[:2] == [True, 700]
    assert runtime.acknowledged_ns() == 0
    ask("vs.acknowledgeQuit_Exiting()")
    assert runtime.acknowledged_ns() > 0
    ask("openvr.shutdown()")
    assert ask(BACKGROUND) == "raised InitError_Init_NoServerForBackgroundApp"
    runtime.restart()
    assert ask(BACKGROUND) == "IVRSystem"


def test_haptic_pulses_reach_the_controller(runtime: VrRuntime, ask: Client) -> None:
    """With their length, in order, from any program."""
    for duration_us in (500, 3999):
        ask(f"vs.triggerHapticPulse({runtime.index_of('left')}, 0, {duration_us})")
    pulses = [(pulse.device, pulse.duration_us) for pulse in runtime.haptics()]
    assert pulses == [(runtime.index_of("left"), 500), (runtime.index_of("left"), 3999)]


def test_the_rest_of_what_programs_ask(ask: Client) -> None:
    """Names, states of the system, and the display of a headset that is none."""
    assert ask("vs.getButtonIdNameFromEnum(33)") == "k_EButton_Axis1"
    assert ask("vs.getControllerAxisTypeNameFromEnum(3)") == "k_eControllerAxis_Trigger"
    assert ask("vs.isInputAvailable()") == 1
    assert ask("vs.isSteamVRDrawingControllers()") == 0
    assert ask("vs.shouldApplicationPause()") == 0
    assert ask("vs.shouldApplicationReduceRenderingWork()") == 0
    assert ask("vs.getRecommendedRenderTargetSize()") == [1280, 720]
    assert ask("vs.isDisplayOnDesktop()") == 0
    assert ask("vs.getProjectionRaw(openvr.Eye_Left)") == [-1, 1, -1, 1]
    assert ask("vs.getProjectionMatrix(openvr.Eye_Left, 0.1, 10.0)")["m"][3] == [0, 0, -1, 0]
    assert ask("vs.getEyeToHeadTransform(openvr.Eye_Right)")["m"][0][3] == pytest.approx(0.0315)
    assert ask("vs.getTimeSinceLastVsync()")[0] == 0
