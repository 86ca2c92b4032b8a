"""An ``interbotix_xs_sdk`` compatible ROS 1 node, run by rospy, over one servo bus.

Runs as a process of its own: ``python -m drivers.emulated.interbotix.xs_sdk_node FILE``. The
file is YAML with ``master``, ``robot``, ``port`` and the configurations ``motors`` and ``modes``.
Prints one line when it is up, and ends when its standard input does, so that it never outlives
its parent.

The original is one thread that does one thing after the other; here a fair lock sees to that.
Its message classes are made by genpy from our own definitions; genpy computes their md5 sums.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from drivers.dynamixel.port import QuietPort
from drivers.emulated.fair_lock import FairLock
from drivers.emulated.interbotix.xs_sdk import RefusedRequest, XsSdkCore
from drivers.interbotix.interface import GROUP_COMMAND, SINGLE_COMMAND, STATES
from drivers.ros1.messages import (
    JOINT_GROUP_COMMAND,
    JOINT_SINGLE_COMMAND,
    SERVICES,
    Fields,
    MessageType,
    ServiceType,
)
from teleop.clock import MonotonicClock, Ticker, ns_from_s
from teleop.errors import DeviceError

DEBIAN_PACKAGES = "/usr/lib/python3/dist-packages"
"""Where Debian's Python packages are (Debian Python Policy); last in the path, so that ours win."""
UP = "up"
"""The line that tells that the node serves."""
QUEUE = 5
"""Commands that may wait, as in the original; older ones are dropped."""


def main(file: str) -> None:
    """Serve until the standard input ends, or the bus does."""
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tree = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    os.environ |= {
        "ROS_MASTER_URI": tree["master"],
        "ROS_NAMESPACE": f"/{tree['robot']}",
        "ROS_IP": "127.0.0.1",
    }
    port = QuietPort(tree["port"], MonotonicClock(), 1_000_000)
    core = XsSdkCore(port, tree["motors"], tree["modes"])
    sys.path.append(DEBIAN_PACKAGES)
    import rospy

    rospy.init_node("xs_sdk", argv=[], disable_signals=True)
    _serve(rospy, core)


def _serve(rospy: Any, core: XsSdkCore) -> None:
    from sensor_msgs.msg import JointState

    turn = FairLock()

    def guarded(work: Callable[..., Any]) -> Callable[..., Any]:
        def work_in_turn(*args: Any) -> Any:
            with turn:
                return work(*args)

        return work_in_turn

    states = rospy.Publisher(STATES, JointState, queue_size=1)
    commands: list[tuple[str, MessageType, Callable[[Any], None]]] = [
        (GROUP_COMMAND, JOINT_GROUP_COMMAND, lambda m: core.command_group(m.name, m.cmd)),
        (SINGLE_COMMAND, JOINT_SINGLE_COMMAND, lambda m: core.command_single(m.name, m.cmd)),
    ]
    for topic, message, obey in commands:
        rospy.Subscriber(
            topic, message_class(message), guarded(obey), queue_size=QUEUE, tcp_nodelay=True
        )
    for name, kind in SERVICES.items():
        rospy.Service(name, service_class(kind), guarded(_handler(core, name, kind)))
    clock = MonotonicClock()
    ticker = Ticker(ns_from_s(1 / core.update_hz), clock.now_ns())
    told = False
    while not rospy.is_shutdown():
        clock.sleep_until_ns(ticker.deadline_ns)
        ticker.advance(clock.now_ns())
        message = JointState()
        with turn:
            message.name, message.position, message.velocity, message.effort = core.states()
        message.header.stamp = rospy.Time.now()
        states.publish(message)
        if not told:
            _tell_parent()
            told = True


def _tell_parent() -> None:
    """One line; nobody reads any more of this output, so it must not fill a pipe."""
    sys.stdout.write(f"{UP}\n")
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _handler(core: XsSdkCore, name: str, kind: ServiceType) -> Callable[[Any], Any]:
    def handle(request: Any) -> Any:
        values = {field: getattr(request, field) for field, _ in kind.request}
        try:
            answer = core.serve(name, values)
        except RefusedRequest:
            return None  # the caller is told that the service failed
        return service_class(kind)._response_class(**answer)

    return handle


_classes: dict[str, Any] = {}


def message_class(kind: MessageType) -> Any:
    """The class that genpy makes of a message.

    Raises:
        DeviceError: its md5 sum is not the one in our table.
    """
    if kind.name not in _classes:
        _classes[kind.name] = _generated(kind.name, kind.definition)
        _check(kind.name, _classes[kind.name]._md5sum, kind.md5)
    return _classes[kind.name]


def service_class(kind: ServiceType) -> Any:
    """The class that genpy makes of a service; raises as ``message_class`` does."""
    if kind.name not in _classes:
        from genmsg import MsgContext
        from genmsg.gentools import compute_md5
        from genmsg.msg_loader import load_srv_from_string

        request, response = _text(kind.request), _text(kind.response)
        context = MsgContext.create_default()
        parsed = load_srv_from_string(context, f"{request}---\n{response}", kind.name)
        _check(kind.name, compute_md5(context, parsed), kind.md5)
        _classes[kind.name] = type(
            kind.name.split("/")[1],
            (),
            {
                "_type": kind.name,
                "_md5sum": kind.md5,
                "_request_class": _generated(f"{kind.name}Request", request),
                "_response_class": _generated(f"{kind.name}Response", response),
            },
        )
    return _classes[kind.name]


def end_with_parent() -> None:
    """End this process when its standard input ends, that is, when its parent does."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _generated(name: str, text: str) -> Any:
    from genpy.dynamic import generate_dynamic

    return generate_dynamic(name, text)[name]


def _text(fields: Fields) -> str:
    return "".join(f"{kind} {name}\n" for name, kind in fields)


def _check(name: str, computed: str, ours: str) -> None:
    if computed != ours:
        raise DeviceError(f"md5 of {name} is {computed}, our table has {ours}; correct the table")


if __name__ == "__main__":
    main(sys.argv[1])
