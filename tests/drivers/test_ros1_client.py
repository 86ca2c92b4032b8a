"""The small ROS 1 client: its bytes against genpy's, and its manners against a real master."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from xs_bench import wait_for

from drivers.emulated.interbotix.ros_master import RosMaster
from drivers.emulated.interbotix.xs_sdk_node import DEBIAN_PACKAGES, message_class, service_class
from drivers.ros1.client import Ros1Client
from drivers.ros1.link import TIMEOUT_S, Link, decode_header, encode_header
from drivers.ros1.messages import (
    JOINT_GROUP_COMMAND,
    JOINT_SINGLE_COMMAND,
    JOINT_STATE,
    ROBOT_INFO,
    SERVICES,
)
from teleop.addresses import free_base_port
from teleop.errors import DeviceError, WireError

STATE = {
    "name": ["waist", "left_finger"],
    "position": [0.25, -1e-3],
    "velocity": [0.0, 3.5],
    "effort": [-53.8, 0.0],
}
TOPIC = "/robot/commands/joint_group"
COMMAND = {"name": "arm", "cmd": [0.5, -0.25]}


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RosMaster]:
    """A real ROS master."""
    master = RosMaster(free_base_port(1), tmp_path_factory.mktemp("master"))
    master.start()
    yield master
    master.kill()


@pytest.fixture
def nodes(master: RosMaster) -> Iterator[tuple[Ros1Client, Ros1Client]]:
    """Two nodes of ours."""
    pair = Ros1Client(master.uri, "one"), Ros1Client(master.uri, "other")
    for node in pair:
        node.start()
    yield pair
    for node in pair:
        node.close()


@pytest.fixture
def genpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's ROS packages can be imported."""
    monkeypatch.setattr(sys, "path", [*sys.path, DEBIAN_PACKAGES])


@pytest.mark.usefixtures("genpy")
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (JOINT_GROUP_COMMAND, COMMAND),
        (JOINT_SINGLE_COMMAND, {"name": "gripper", "cmd": 0.5}),
    ],
)
def test_messages_are_the_bytes_that_genpy_makes(kind: Any, values: dict[str, Any]) -> None:
    """And their md5 sums are those that genpy computes."""
    out = io.BytesIO()
    message_class(kind)(**values).serialize(out)
    assert kind.encode(values) == out.getvalue()
    assert kind.decode(out.getvalue()) == values


@pytest.mark.usefixtures("genpy")
def test_joint_states_are_the_ones_of_debian() -> None:
    """Header and all, both ways, with the md5 sum of the installed package."""
    from sensor_msgs.msg import JointState

    assert JointState._md5sum == JOINT_STATE.md5
    out = io.BytesIO()
    JointState(**STATE).serialize(out)
    assert JOINT_STATE.encode(STATE) == out.getvalue()
    decoded = JOINT_STATE.decode(out.getvalue())
    assert {key: decoded[key] for key in STATE} == STATE


@pytest.mark.usefixtures("genpy")
@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_are_the_bytes_that_genpy_makes(name: str) -> None:
    """Requests as we send them, answers as we read them; md5 sums are compared on the way."""
    kind = SERVICES[name]
    samples = {"string": "arm", "bool": True, "int32": -7, "int16": 3, "int16[]": [1, -2]}
    samples |= {"string[]": ["waist", "elbow"], "int32[]": [2048, -1], "float32[]": [0.5, -2.0]}
    made = service_class(kind)
    request = {field: samples[of] for field, of in kind.request}
    response = {field: samples[of] for field, of in kind.response}
    out = io.BytesIO()
    made._request_class(**request).serialize(out)
    assert kind.encode_request(request) == out.getvalue()
    out = io.BytesIO()
    made._response_class(**response).serialize(out)
    assert kind.decode_response(out.getvalue()) == response


def test_bytes_that_are_no_message_are_refused() -> None:
    """Cut off at any place, too long, or telling of more than there is."""
    data = JOINT_STATE.encode(STATE)
    for end in range(len(data)):
        with pytest.raises(WireError):
            JOINT_STATE.decode(data[:end])
    with pytest.raises(WireError):
        JOINT_STATE.decode(data + b"\0")
    with pytest.raises(WireError):
        ROBOT_INFO.decode_response(b"\xff" * 40)
    assert decode_header(encode_header({"a": "1", "b": ""})[4:]) == {"a": "1", "b": ""}
    with pytest.raises(WireError):
        decode_header(b"\xff\0\0\0abc")


def test_a_topic_goes_from_node_to_node(nodes: tuple[Ros1Client, Ros1Client]) -> None:
    """Whoever comes first; nothing is kept for those who come later."""
    one, other = nodes
    heard: list[dict[str, Any]] = []
    topic = one.advertise(TOPIC, JOINT_GROUP_COMMAND)
    assert topic.publish(COMMAND) == 0
    subscription = other.subscribe(TOPIC, JOINT_GROUP_COMMAND, heard.append)
    wait_for(lambda: bool(topic.connected and subscription.connected), "the connection")
    assert topic.publish(COMMAND) == 1
    wait_for(lambda: bool(heard), "the message")
    assert heard == [COMMAND]


def test_a_publisher_that_comes_back_is_heard_again(
    master: RosMaster, nodes: tuple[Ros1Client, Ros1Client]
) -> None:
    """The master tells of it; the loss is counted."""
    one, other = nodes
    heard: list[dict[str, Any]] = []
    one.advertise(TOPIC, JOINT_GROUP_COMMAND)
    subscription = other.subscribe(TOPIC, JOINT_GROUP_COMMAND, heard.append)
    wait_for(lambda: subscription.connected == 1, "the connection")
    one.close()
    wait_for(lambda: subscription.losses == 1, "the loss")
    again = Ros1Client(master.uri, "again")
    again.start()
    topic = again.advertise(TOPIC, JOINT_GROUP_COMMAND)
    wait_for(lambda: bool(topic.connected and subscription.connected), "the connection")
    topic.publish(COMMAND)
    wait_for(lambda: bool(heard), "the message")
    again.close()


def test_messages_of_another_kind_are_turned_away(nodes: tuple[Ros1Client, Ros1Client]) -> None:
    """By their md5 sums, and both sides can say why."""
    one, other = nodes
    one.advertise(TOPIC, JOINT_GROUP_COMMAND)
    subscription = other.subscribe(TOPIC, JOINT_SINGLE_COMMAND, print)
    wait_for(lambda: bool(subscription.trouble), "the refusal")
    assert TOPIC in subscription.trouble


def test_a_receiver_that_does_not_read_is_hung_up_on(
    nodes: tuple[Ros1Client, Ros1Client],
) -> None:
    """Publishing never waits, and no queue of old commands builds up."""
    one, other = nodes
    topic = one.advertise(TOPIC, JOINT_GROUP_COMMAND)
    stuck = threading.Event()
    other.subscribe(TOPIC, JOINT_GROUP_COMMAND, lambda _message: stuck.wait(60))
    wait_for(lambda: topic.connected == 1, "the connection")
    slowest_s, big = 0.0, {"name": "arm", "cmd": [0.0] * 1000}
    for _ in range(10_000):
        began_s = time.monotonic()
        left = topic.publish(big)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        if not left:
            break
    stuck.set()
    assert topic.losses == 1
    assert slowest_s < 1.0


def test_an_absent_master_is_named() -> None:
    """At once, with what to start."""
    with pytest.raises(
        DeviceError, match=r"no ROS master answers at http://127.0.0.1:9: .*roscore"
    ):
        Ros1Client("http://127.0.0.1:9", "lonely").start()


def test_a_master_that_says_nothing_is_not_waited_for() -> None:
    """Something listens there and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        with pytest.raises(DeviceError, match="no ROS master answers"):
            Ros1Client(f"http://127.0.0.1:{silent.getsockname()[1]}", "patient").start()
        assert time.monotonic() - began_s < 5 * TIMEOUT_S


def test_another_program_is_not_taken_for_a_master() -> None:
    """A web server, say."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]
        with pytest.raises(DeviceError, match="does not answer as a ROS master"):
            Ros1Client(f"http://127.0.0.1:{port}", "misled").start()
        server.kill()


def test_a_service_nobody_offers_is_named(nodes: tuple[Ros1Client, Ros1Client]) -> None:
    """In the master's words."""
    service = nodes[0].service("/robot/get_robot_info", ROBOT_INFO)
    with pytest.raises(DeviceError, match=r"lookupService.*no provider"):
        service.call({"cmd_type": "group", "name": "all"}, 1.0)


def test_a_service_that_never_answers_is_not_waited_for(
    nodes: tuple[Ros1Client, Ros1Client],
) -> None:
    """The time-out of the call counts, and the next call begins anew."""
    one, other = nodes
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"rosrpc://127.0.0.1:{listener.getsockname()[1]}"
        one.ask_master("registerService", "/robot/get_robot_info", uri, "http://127.0.0.1:9/")

        def greet() -> None:
            for _ in range(2):
                link = Link(listener.accept()[0])
                link.receive(TIMEOUT_S)
                link.send(encode_header({"callerid": "/mute"}), TIMEOUT_S)
                kept.append(link)

        kept: list[Link] = []
        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        service = other.service("/robot/get_robot_info", ROBOT_INFO)
        for _ in range(2):
            began_s = time.monotonic()
            with pytest.raises(DeviceError, match="get_robot_info: the other side sends nothing"):
                service.call({"cmd_type": "group", "name": "all"}, 0.2)
            assert time.monotonic() - began_s < 5.0
        thread.join(5.0)
        assert len(kept) == 2
