"""What is sent on the bus arrives, is counted, and comes only from where it may."""

import time
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth

from teleop import messages as m
from teleop import topics
from teleop.addresses import address_of
from teleop.bus import Bus, Publisher, Subscriber
from teleop.clock import VirtualClock
from teleop.errors import BusError, RigError
from teleop.node import Inputs
from teleop.rig import Rig
from teleop.rig_files import rig_from_tree
from teleop.topics import Queue

STATE = topics.arm_state("left_leader")


def state(seq: int) -> m.ArmState:
    return m.ArmState(1000 + seq, seq, np.full(6, float(seq)), None, None, 0.5, None, None)


def until_connected(publisher: Publisher, subscriber: Subscriber, topic: str) -> None:
    """Send until something arrives: PUB drops what is sent before a subscriber is there."""
    for _ in range(500):
        publisher.send(topic, state(0))
        if subscriber.wait(0.02):
            time.sleep(0.05)
            subscriber.drain(VirtualClock(0))
            subscriber.counts[topic].next_seq = 1
            return
    raise AssertionError("never connected")


def collect(subscriber: Subscriber, topic: str, count: int) -> list[m.ArmState]:
    got: list[m.ArmState] = []
    for _ in range(200):
        if subscriber.wait(0.1):
            got += subscriber.drain(VirtualClock(7)).all(topic, m.ArmState)
        if len(got) >= count:
            break
    return got


def test_every_message_arrives_in_order_and_gaps_are_counted(aloha: Rig) -> None:
    """Queue.ALL delivers all; a missing sequence number is counted as lost."""
    with Bus(aloha) as bus:
        publisher, subscriber = bus.publisher([STATE]), bus.subscriber({STATE: Queue.ALL})
        until_connected(publisher, subscriber, STATE)
        for seq in (1, 2, 5, 6):
            publisher.send(STATE, state(seq))
        got = collect(subscriber, STATE, 4)
        assert [s.seq for s in got] == [1, 2, 5, 6]
        assert subscriber.counts[STATE].lost == 2
        publisher.close()
        subscriber.close()


def test_a_slow_subscriber_of_the_latest_gets_only_the_newest(aloha: Rig) -> None:
    """Queue.LATEST hands over one message, the last."""
    with Bus(aloha) as bus:
        publisher, subscriber = bus.publisher([STATE]), bus.subscriber({STATE: Queue.LATEST})
        until_connected(publisher, subscriber, STATE)
        for seq in range(1, 50):
            publisher.send(STATE, state(seq))
        newest = None
        while newest is None or newest.seq < 49:
            assert subscriber.wait(10)
            received = subscriber.drain(VirtualClock(9)).received(STATE)
            assert len(received) == 1
            assert received[0].arrival_ns == 9
            newest = received[0].message
        publisher.close()
        subscriber.close()


def test_a_second_publisher_of_a_topic_is_refused(aloha: Rig) -> None:
    """The second commander of an arm fails at bind, and is told why."""
    topic = topics.arm_command("left_follower")
    with Bus(aloha) as first, Bus(aloha) as second:
        publisher = first.publisher([topic])
        with pytest.raises(BusError, match=r"arm/left_follower/command.*in use"):
            second.publisher([topic])
        publisher.close()


def test_foreign_bytes_are_dropped_and_counted(aloha: Rig) -> None:
    """Garbage and messages of the wrong type never reach a node."""
    with Bus(aloha) as bus:
        raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        raw.bind(address_of(aloha, STATE))
        subscriber = bus.subscriber({STATE: Queue.ALL})
        inputs = Inputs()
        for _ in range(500):
            raw.send(STATE.encode() + b"\0not a message")
            if subscriber.wait(0.02):
                inputs = subscriber.drain(VirtualClock(0))
                break
        assert inputs.received(STATE) == []
        assert subscriber.counts[STATE].malformed > 0
        raw.close(linger=0)
        subscriber.close()


def test_a_rig_that_leaves_the_machine_without_keys_is_refused(aloha: Rig) -> None:
    """A non-loopback host needs network.security."""
    tree = aloha.model_dump() | {"network": {"host": "192.168.1.5"}}
    with pytest.raises(RigError, match=r"192\.168\.1\.5 is not loopback"):
        rig_from_tree(tree, "hardware.yaml")


def test_with_keys_only_listed_peers_can_listen(aloha: Rig, tmp_path: Path) -> None:
    """CURVE: a listed key receives, an unlisted key does not."""
    for name in ("rig", "viewer", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)

    def secured(identity: str, peer: str | None) -> Rig:
        endpoint = {"address": address_of(aloha, STATE), "peer": peer}
        return aloha.replaced(
            network={
                "base_port": aloha.network.base_port,
                "endpoints": {STATE: endpoint},
                "security": {
                    "key_dir": tmp_path,
                    "identity": identity,
                    "peers": {"viewer": "observer", "rig": "admin"},
                },
            }
        )

    with (
        Bus(secured("rig", None)) as rig_bus,
        Bus(secured("viewer", "rig")) as viewer_bus,
        Bus(secured("stranger", "rig")) as stranger_bus,
    ):
        publisher = rig_bus.publisher([STATE])
        viewer = viewer_bus.subscriber({STATE: Queue.ALL})
        stranger = stranger_bus.subscriber({STATE: Queue.ALL})
        until_connected(publisher, viewer, STATE)
        for seq in range(1, 20):
            publisher.send(STATE, state(seq))
        assert len(collect(viewer, STATE, 19)) == 19
        assert not stranger.wait(0.3)
        for end in (publisher, viewer, stranger):
            end.close()


def test_a_missing_key_is_named(aloha: Rig, tmp_path: Path) -> None:
    """The error tells which key file is missing."""
    rig = aloha.replaced(
        network={"security": {"key_dir": tmp_path, "identity": "rig", "peers": {}}}
    )
    with pytest.raises(BusError, match=r"rig\.key_secret"):
        Bus(rig)
