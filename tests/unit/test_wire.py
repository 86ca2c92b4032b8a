"""Messages survive the wire, and nothing else gets through it."""

import contextlib
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleop import messages as m
from teleop import wire
from teleop.errors import WireError

EXAMPLES = [
    m.ArmState(1, 2, np.arange(6.0), None, np.full(6, np.nan), 0.5, None, 0.1),
    m.ArmCommand(1, 2, np.zeros(6), 1.0, 99, "teleop", "lease-1", m.LIMP, 7),
    m.ArmApplied(1, 2, np.ones(6), 0.0, -1, 0, "hold", 3),
    m.PoseInput(5, 0, np.zeros(3), np.array([1.0, 0, 0, 0]), True, 0.5, 1.0, np.zeros(2), 3),
    m.OperatorAction(5, 0, "start_stop"),
    m.InputCue(5, 0, "engaged", 0.5),
    m.ArmTrace(5, 0, 17, np.zeros(7), np.zeros(7), np.ones(7), np.zeros(7)),
    m.TwistInput(5, 0, np.zeros(3), np.ones(3), 1),
    m.Frame(3, 4, 5, "jpeg", 640, 480, b"\xff\xd8..\xff\xd9"),
    m.ActionChunk(1, 2, 3, 4, np.ones((50, 14)), 5, 6, "policy"),
    m.EpisodeEvent(1, 2, "stop", 0, "transfer_cube", "success", "träger"),
    m.SessionPhase(1, 2, "running", 3, ""),
    m.StopState(1, 2, True, "key"),
    m.TaskState(1, 2, "insertion", 1, 4, False, np.zeros((2, 7))),
    m.Health(1, 2, "recorder", True, "idle", "", {"bytes": 12, "rate_hz": 1.5}),
]


def same(a: object, b: object) -> bool:
    """Field-wise equality, NaN equal to NaN."""
    return type(a) is type(b) and all(
        np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y
        for x, y in ((getattr(a, n), getattr(b, n)) for n in type(a).__slots__)
    )


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda e: type(e).__name__)
def test_a_message_comes_back_as_it_was(message: m.Message) -> None:
    """Every message type makes the round trip."""
    assert same(wire.decode(wire.encode(message)), message)


def test_every_message_type_is_tried_here() -> None:
    """A new message type must be added to the examples."""
    assert {type(e) for e in EXAMPLES} == set(m.MESSAGE_TYPES)


@given(st.binary(max_size=200))
def test_foreign_bytes_raise_a_wire_error_and_nothing_else(data: bytes) -> None:
    """Arbitrary bytes never do more than raise WireError."""
    with pytest.raises(WireError):
        wire.decode(data)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda e: type(e).__name__)
@given(st.data())
def test_a_damaged_message_is_refused_or_well_formed(
    message: m.Message, data: st.DataObject
) -> None:
    """One changed byte gives a WireError or a message of a known type, never another error."""
    raw = bytearray(wire.encode(message))
    i = data.draw(st.integers(0, len(raw) - 1))
    raw[i] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        assert isinstance(wire.decode(bytes(raw)), m.MESSAGE_TYPES)


def test_a_wrong_field_type_is_named() -> None:
    """The error tells which field of which message is wrong."""
    payload = msgpack.packb(["engaged", "why"])
    head = wire.HEADER.pack(wire.MAGIC, wire.VERSION, m.StopState.KIND, len(payload), 0, 0)
    with pytest.raises(WireError, match=r"StopState\.engaged"):
        wire.decode(head + payload)


def test_an_array_whose_shape_lies_is_refused() -> None:
    """A shape that does not match the data cannot make a huge or torn array."""
    bad = msgpack.ExtType(wire.ARRAY_EXT, struct.pack("<BI", 1, 1 << 30) + b"\0" * 8)
    payload = msgpack.packb(["t", 0, 1, False, bad])
    head = wire.HEADER.pack(wire.MAGIC, wire.VERSION, m.TaskState.KIND, len(payload), 0, 0)
    with pytest.raises(WireError, match="TaskState"):
        wire.decode(head + payload)
