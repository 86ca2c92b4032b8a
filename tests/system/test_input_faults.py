"""What goes wrong with an input device, through the whole chain to the goals of the servos.

One test for each row of the table in ``docs/safety.md``: the outcome in words, the arm at rest in
time, nothing beyond its caps, and no motion afterwards without a new press.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from drivers import input_node
from drivers.arm import node as arm_node
from drivers.emulated.vr.runtime import VrRuntime, emulated_fields
from drivers.emulated.webxr.headset import IWER, WebXrHeadset
from teleop.addresses import free_base_port
from teleop.clock import ns_from_s
from teleop.errors import DeviceError
from teleop.node import NodeContext
from teleop.rig import Rig
from teleop.rig_inputs import OpenVrInput, WebXrInput
from teleop.rotations import length
from tests.drivers.vr_bench import VARIABLES
from tests.system.input_chain import Chain
from tests.system.input_operators import HAND, MOVING_M_S, PUCK, Hand, Pusher
from tests.system.servo_arm import ARM, CLOCK, chain_rig

TRIES = 5
NOBODY = 65534
"""The user without rights."""
LEAP_M = 0.6
SAMPLES = 60
"""Told afterwards while the arm must not move: over half a second of any of these devices."""

needs_puck = pytest.mark.skipif(find_spec("pyspacemouse") is None, reason="no pyspacemouse")
needs_openvr = pytest.mark.skipif(find_spec("openvr") is None, reason="no openvr")
needs_browser = pytest.mark.skipif(
    not IWER.exists() or find_spec("aiohttp") is None, reason="no iwer, or no aiohttp"
)


@pytest.fixture
def pusher(tmp_path: Path) -> Iterator[Pusher]:
    with closing(Pusher(tmp_path)) as pusher:
        yield pusher


@pytest.fixture
def vr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hand, VrRuntime]]:
    """A hand in the emulated SteamVR, and that."""
    for variable in VARIABLES:  # The driver sets them; afterwards they are as before.
        monkeypatch.setenv(variable, "unset")
    rig = chain_rig("viperx_openvr", {HAND: emulated_fields(tmp_path)})
    runtime = VrRuntime(cast(dict[str, OpenVrInput], rig.inputs))
    runtime.start()
    with closing(runtime):
        hand = Hand(runtime, lambda act: Chain(rig, HAND, "openvr", act))
        with closing(hand.chain):
            hand.chain.run()
            yield hand, runtime


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hand, WebXrHeadset]]:
    """A hand in the headset that has opened the rig's page; the browser takes long to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        rig = chain_rig("viperx_webxr", {HAND: {}}, webxr={"port": free_base_port(1)})
        worn = WebXrHeadset(cast(dict[str, WebXrInput], rig.inputs), rig.webxr)
        worn.start()
        with closing(worn):
            hand = Hand(worn, lambda act: Chain(rig, HAND, "webxr", act))
            with closing(hand.chain):
                worn.wait_until_entered()
                hand.chain.run()
                yield hand, worn


# A leader arm


@pytest.fixture
def serial_port() -> Iterator[str]:
    """A port that is the root user's, and for the time of a test we are not root."""
    ours, theirs = os.openpty()
    os.fchmod(theirs, 0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    yield os.ttyname(theirs)
    os.seteuid(user)
    os.close(ours)
    os.close(theirs)


def test_a_serial_port_that_nobody_may_open_is_named(aloha: Rig, serial_port: str) -> None:
    """Permission denied: no run, and the group that helps."""
    arm = aloha.arms["left_leader"].model_dump() | {"port": serial_port}
    rig = aloha.replaced(arms={"left_leader": arm})
    with pytest.raises(DeviceError, match=f"{serial_port}: permission denied; .*group dialout"):
        arm_node.build("left_leader", NodeContext(rig, CLOCK))


# A puck


@needs_puck
def test_a_puck_that_falls_silent_while_pushed_holds_the_arm(pusher: Pusher) -> None:
    """Stale: no report for 0.1 s; back again, still pushed, it must be let go first."""
    chain = pusher.chain
    pusher.guide()
    silent_ns = chain.happen(lambda: pusher.puck.fall_silent(True))
    chain.assert_held(silent_ns)
    chain.until(lambda: "mouse: fell silent while deflected" in chain.words, "the words")
    chain.assert_stays(pusher.told(20, live=False), "a third of a second of silence")
    chain.happen(lambda: pusher.puck.fall_silent(False))
    chain.assert_stays(pusher.told(SAMPLES, live=False), "reports of a pushed puck")
    pusher.guide()
    assert chain.words == ""
    chain.assert_caps()


@needs_puck
def test_a_puck_unplugged_while_pushed_holds_the_arm(pusher: Pusher) -> None:
    """Its loss is named at once; plugged in while pushed it must be let go first."""
    chain = pusher.chain
    pusher.guide()
    chain.assert_held(chain.happen(pusher.puck.unplug))
    chain.assert_stays(lambda: "mouse: lost: " in chain.words, "the words")
    assert "plug the puck in" in chain.words
    pusher.push_again()
    chain.happen(pusher.puck.plug)
    chain.assert_stays(lambda: "was deflected when it was opened" in chain.words, "it is back")
    chain.assert_stays(pusher.told(SAMPLES, live=False), "reports of a pushed puck")
    pusher.guide()
    chain.assert_caps()


@needs_puck
def test_a_puck_that_nobody_may_open_is_named_and_the_arm_holds(
    pusher: Pusher, tmp_path: Path
) -> None:
    """Permission denied: no run at the start; and none again of one that was plugged in anew."""
    chain = pusher.chain
    pusher.guide()
    chain.assert_held(chain.happen(pusher.puck.unplug))

    def plug_without_rule() -> None:
        opened = -1
        while pusher.puck.opened != opened:  # Anew if the driver was quicker than the refusal.
            pusher.puck.unplug()
            opened = pusher.puck.opened
            pusher.puck.plug()
            pusher.puck.refuse(True)

    chain.happen(plug_without_rule)
    denied = "permission denied; install the udev rule"
    chain.assert_stays(lambda: denied in chain.words, "the words")
    with pytest.raises(DeviceError, match=f"^mouse: .*{denied}"):
        input_node.build(PUCK, NodeContext(chain.rig, CLOCK))
    pusher.push_again()
    pusher.puck.refuse(False)
    chain.assert_stays(lambda: "was deflected when it was opened" in chain.words, "it is back")
    pusher.guide()
    chain.assert_caps()


# A tracked hand


@needs_openvr
@pytest.mark.parametrize("what", ["out of sight", "switched off"])
def test_tracking_lost_with_the_grip_held_holds_the_arm(
    vr: tuple[Hand, VrRuntime], what: str
) -> None:
    """Found again elsewhere, the grip still held, the hand moves nothing until it grips anew."""
    (hand, runtime), chain = vr, vr[0].chain
    hand.guide()

    def lose() -> None:
        if what == "out of sight":
            hand.tracked = False
            hand.act(CLOCK.now_ns())
        else:
            runtime.unplug(HAND)

    chain.assert_held(chain.happen(lose))
    chain.until(lambda: f"{HAND} is lost; {ARM} holds" in chain.words, "the words")
    named = "is not tracked" if what == "out of sight" else "no controller is on in the left hand"
    assert f"{HAND}: {named}" in chain.words
    assert chain.cues[-1] == "lost"
    hand.at_m = hand.at_m + np.array([0.0, 0.1, -LEAP_M])
    hand.tracked = True
    if what == "switched off":
        runtime.replug(HAND)
    chain.assert_stays(hand.told(SAMPLES), "the hand tracked, the grip held")
    assert f"{HAND} is lost" in chain.words
    hand.guide()
    assert chain.words == ""
    chain.assert_caps()


@needs_openvr
def test_a_jump_of_the_hand_does_not_move_the_arm(vr: tuple[Hand, VrRuntime]) -> None:
    """The hand is latched anew where it is found: counted, and the arm goes on from there."""
    (hand, _), chain = vr, vr[0].chain
    for _ in range(TRIES):
        hand.guide()
        hand.swings = False
        chain.until(chain.at_rest, "the arm where the still hand wants it")
        before, latches = chain.tool_m(chain.written[-1]), _latches(chain)
        hand.at_m = hand.at_m + np.array([LEAP_M, 0.0, 0.0])
        chain.until(hand.told(SAMPLES), "the hand stays there")
        after, latched = chain.tool_m(chain.written[-1]), _latches(chain)
        hand.swings = True
        chain.until(lambda: chain.speed_m_s() > MOVING_M_S or _lost(chain), "the arm goes on")
        if not _lost(chain):
            break
    assert length(after - before) < 0.002
    assert latched == latches + 1

    hand.guide()
    begun = len(chain.written) - 1
    hand.at_m = hand.at_m - np.array([LEAP_M, 0.0, 0.0])
    chain.until(hand.told(SAMPLES), "the hand swings on")
    path = [chain.tool_m(w) for w in chain.written[begun:]]
    assert max(length(p - path[0]) for p in path) < LEAP_M  # The swing alone is 0.4 m wide.
    chain.assert_caps()


@needs_openvr
def test_an_input_process_that_hangs_is_a_stale_hand(vr: tuple[Hand, VrRuntime]) -> None:
    """Stale: the newest pose is over 0.1 s old; what comes after 0.25 s needs a new grip."""
    (hand, _), chain = vr, vr[0].chain
    hand.guide()
    chain.hang(chain.input, True)
    chain.assert_held(chain.samples[-1].stamp_ns)
    stop_ns = chain.samples[-1].stamp_ns + ns_from_s(0.6)
    chain.assert_stays(lambda: CLOCK.now_ns() > stop_ns, "0.6 s without a pose")
    assert f"{HAND} is lost; {ARM} holds" in chain.words
    chain.hang(chain.input, False)
    chain.assert_stays(hand.told(SAMPLES), "fresh poses, the grip held")
    hand.guide()
    chain.assert_caps()


@needs_openvr
def test_steamvr_that_quits_holds_the_arm(vr: tuple[Hand, VrRuntime]) -> None:
    """The wish is acknowledged and named; started again it is found, and the hand grips anew."""
    (hand, runtime), chain = vr, vr[0].chain
    hand.guide()
    chain.assert_held(chain.happen(runtime.quit))
    chain.until(lambda: "SteamVR: was closed; start it again" in chain.words, "the words")
    assert runtime.acknowledged_ns() > 0
    chain.until(lambda: f"{HAND} is lost; {ARM} holds" in chain.words, "the commander's words")
    runtime.restart()
    chain.assert_stays(hand.told(SAMPLES), "poses of the new SteamVR, the grip held")
    hand.guide()
    assert chain.words == ""
    chain.assert_caps()


# A headset's page; the last test kills its browser


@needs_browser
def test_a_network_that_stalls_and_bursts_holds_the_arm(
    page: tuple[Hand, WebXrHeadset],
) -> None:
    """0.6 s of poses that come at once are too old by then, and the hand grips anew."""
    (hand, worn), chain = page, page[0].chain
    hand.guide()
    stalled_ns = chain.happen(worn.stall)
    chain.until(chain.at_rest, "the arm at rest")
    chain.assert_held(hand.newest_ns())
    chain.assert_stays(lambda: CLOCK.now_ns() > stalled_ns + ns_from_s(0.6), "the stall")
    assert f"{HAND} is lost; {ARM} holds" in chain.words
    dropped = chain.input.health(CLOCK.now_ns()).values["stale_dropped"]
    chain.happen(worn.flow)
    chain.assert_stays(hand.told(SAMPLES, live=False), "poses again, the grip held")
    assert chain.input.health(CLOCK.now_ns()).values["stale_dropped"] > dropped
    hand.guide()
    chain.assert_caps()


@needs_browser
def test_a_port_that_is_taken_is_named_and_disturbs_nobody(
    page: tuple[Hand, WebXrHeadset],
) -> None:
    """Port busy: a second rig does not start, and the first one's arm goes on."""
    (hand, _), chain = page, page[0].chain
    hand.guide()
    with pytest.raises(DeviceError, match=f"{chain.rig.webxr.port}"):
        input_node.build("webxr", NodeContext(chain.rig, CLOCK))
    hand.guide()
    chain.assert_caps()


@needs_browser
def test_a_browser_that_is_killed_holds_the_arm(
    page: tuple[Hand, WebXrHeadset],
) -> None:
    """The connection breaks; the words say what to do."""
    (hand, worn), chain = page, page[0].chain
    hand.guide()
    chain.happen(worn.kill)
    chain.until(chain.at_rest, "the arm at rest")
    chain.assert_held(hand.newest_ns())
    chain.assert_stays(lambda: "no headset is connected; open https" in chain.words, "the words")
    assert f"{HAND} is lost; {ARM} holds" in chain.words
    end_ns = CLOCK.now_ns() + ns_from_s(0.5)
    chain.assert_stays(lambda: CLOCK.now_ns() > end_ns, "half a second more")
    chain.assert_caps()


def _lost(chain: Chain) -> bool:
    """Whether the rig takes the hand for lost: a busy machine may have kept it waiting."""
    return f"{HAND} is lost" in chain.words


def _latches(chain: Chain) -> float:
    return chain.commander.health(CLOCK.now_ns()).values[f"{ARM}_latches"]
