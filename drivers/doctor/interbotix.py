"""The doctor's look at an arm behind an ``interbotix_xs_sdk`` node. Nothing is written to it.

The session's driver sets operating modes; that would switch torque on for a moment, so here
they are only compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from drivers.arm.faults import TEMPERATURE, VOLTAGE
from drivers.base import DeviceHealth
from drivers.doctor.checks import Check, told
from drivers.doctor.poses import pose_check
from drivers.doctor.servos import supply_check
from drivers.dynamixel import table
from drivers.interbotix import setup
from drivers.interbotix.arm import transport_of
from drivers.interbotix.interface import FIRST_STATE_S, STATES, JointStates, XsSdk, XsTransport
from drivers.interbotix.setup import Layout
from drivers.interbotix.units import NodeUnits
from teleop.clock import NS_PER_S, Clock, ns_from_s
from teleop.errors import DeviceError, TandemError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArmModel
from teleop.rig_interbotix import InterbotixArm

WATCH_S = 1.0
POLL_S = 0.002
LOWEST_HZ = 80.0
"""An xs_sdk node publishes 100 joint states a second."""


def node_checks(name: str, rig: Rig, clock: Clock) -> Iterator[Check]:
    """One arm, from the master to its pose.

    Args:
        name: The arm's name in the rig.
        rig: The rig.
        clock: Stamps what arrives.
    """
    arm, model = rig.arms[name], rig.arm_model(name)
    assert isinstance(arm, InterbotixArm)
    assert isinstance(model, DynamixelArmModel)
    try:
        transport = transport_of(name, arm, clock)
    except TandemError as error:  # the transport's package is not there
        yield told("fail", name, str(error))
        return
    try:
        transport.open()
        yield from _open_node_checks(name, rig, arm, model, transport, clock)
    except TandemError as error:
        yield told("fail", name, str(error))
    finally:
        transport.close()


def _open_node_checks(
    name: str,
    rig: Rig,
    arm: InterbotixArm,
    model: DynamixelArmModel,
    transport: XsTransport,
    clock: Clock,
) -> Iterator[Check]:
    sdk, states = XsSdk(transport), _first_states(arm, transport, clock)
    yield _rate_check(name, arm, transport, clock)
    layout = setup.find_layout(sdk, model, states)
    sensed = setup.check_servos(sdk, layout, model)
    seen = f"the node /{arm.robot} has {len(layout.motors)} motors, the models described"
    yield Check("ok", name, f"{seen}, and {len(layout.shadows)} shadows that are watched")
    units = NodeUnits(name, arm, model)
    units.learn(layout.order, sensed)
    try:
        setup.check_limits(sdk, layout, model, units.ranges)
    except DeviceError as error:
        yield told("fail", f"{name} limits", str(error).replace(": correct", "; correct"))
    yield _mode_check(name, sdk, layout)
    yield supply_check(name, _health(sdk, layout), len(layout.motors), rig)
    yield _delay_check(name, setup.read_all(sdk, layout, "Return_Delay_Time"))
    reading = units.reading(transport.newest() or states)
    if reading is None:
        remedy = "check the arm's power and its bus cable, and see the node's log"
        yield Check("fail", f"{name} pose", "the node could not read its servos", remedy)
    else:
        yield pose_check(name, reading, rig)


def _first_states(arm: InterbotixArm, transport: XsTransport, clock: Clock) -> JointStates:
    end_ns = clock.now_ns() + ns_from_s(FIRST_STATE_S)
    while (states := transport.newest()) is None:
        if clock.now_ns() > end_ns:
            raise DeviceError(
                f"/{arm.robot}/{STATES} is offered, but nothing came in {FIRST_STATE_S:g} s; see "
                "whether the node runs and has publish_states: true"
            )
        clock.sleep_until_ns(clock.now_ns() + ns_from_s(POLL_S))
    return states


def _rate_check(name: str, arm: InterbotixArm, transport: XsTransport, clock: Clock) -> Check:
    """How often joint states come."""
    start_ns, stamps = clock.now_ns(), set[int]()
    while (now_ns := clock.now_ns()) < start_ns + ns_from_s(WATCH_S):
        if (states := transport.newest()) is not None:
            stamps.add(states.stamp_ns)
        clock.sleep_until_ns(now_ns + ns_from_s(POLL_S))
    rate_hz = len(stamps) * NS_PER_S / (clock.now_ns() - start_ns)
    where = "ROS 2" if arm.ros == 2 else arm.master
    seen = f"{where} answers, {rate_hz:.0f} joint states a second"
    if rate_hz < LOWEST_HZ:
        remedy = "see whether another program calls the node's services, or its machine is busy"
        return Check("warn", f"{name} node", seen, remedy)
    return Check("ok", f"{name} node", seen)


def _mode_check(name: str, sdk: XsSdk, layout: Layout) -> Check:
    """Operating modes, and whether a wrong one could be changed."""
    thing = f"{name} modes"
    modes = {
        "arm": sdk.info(("group", layout.group)).mode,
        **({"gripper": sdk.info(("single", layout.gripper)).mode} if layout.gripper else {}),
    }
    torqued = [m for m, on in setup.read_all(sdk, layout, "Torque_Enable").items() if on]
    said = ", ".join(f"{part} in {mode}" for part, mode in modes.items())
    seen = f"{said}, torque {'on at ' + ', '.join(torqued) if torqued else 'off'}"
    if modes["arm"] == "position":
        return Check("ok", thing, seen)
    if set(torqued).intersection(layout.motors[: layout.joints]):
        remedy = (
            "support the arm and switch its torque off (service torque_enable), or have the "
            "node's mode configuration set position"
        )
        return Check("fail", thing, f"{seen}; a mode cannot be changed while it holds", remedy)
    return Check("ok", thing, f"{seen}; position is set when the rig starts")


def _health(sdk: XsSdk, layout: Layout) -> DeviceHealth:
    """Temperatures, voltages and errors of all motors, in the words of the bus driver."""
    errors = setup.read_all(sdk, layout, "Hardware_Error_Status")
    faults = [
        f"{motor} reports {table.hardware_error_words(bits)}"
        for motor, bits in errors.items()
        if bits
    ]
    heat = setup.read_all(sdk, layout, "Present_Temperature")
    volts = setup.read_all(sdk, layout, "Present_Input_Voltage")
    values = {f"{motor}{TEMPERATURE}": float(value) for motor, value in heat.items()}
    values |= {f"{motor}{VOLTAGE}": value * table.VOLT_PER_UNIT for motor, value in volts.items()}
    return DeviceHealth(not faults, "; ".join(faults), values)


def _delay_check(name: str, delays: dict[str, int]) -> Check:
    """What servos wait before they answer: it slows the node's reading of all of them."""
    thing = f"{name} return delay"
    slow = [
        f"{motor} waits {value * table.RETURN_DELAY_UNIT_US} us"
        for motor, value in delays.items()
        if value
    ]
    if slow:
        remedy = "set Return_Delay_Time: 0 in the node's motor configuration"
        return Check("warn", thing, ", ".join(slow), remedy)
    return Check("ok", thing, "0 at all motors")
