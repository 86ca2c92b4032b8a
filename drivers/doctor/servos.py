"""The doctor's look at an arm of Dynamixel servos, from its port to its pose."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator
from pathlib import Path

from drivers.arm.faults import TEMPERATURE, VOLTAGE
from drivers.base import Arm, DeviceHealth
from drivers.doctor.checks import Check, driver_warnings, failed, refusal_of, warnings
from drivers.doctor.ports import latency_check, serial_port_check
from drivers.doctor.poses import pose_check
from drivers.dynamixel import table
from drivers.dynamixel.bus import DynamixelBus
from drivers.dynamixel.health import SILENT_ROUNDS
from drivers.dynamixel.port import QuietPort
from drivers.dynamixel.setup import servos_of
from drivers.registry import open_arm
from teleop.clock import Clock
from teleop.errors import DeviceError
from teleop.rig import Rig
from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel

FTDI_DEFAULT_MS = 16
WITH_SLOW_ADAPTER_S = 0.05
READINGS = 50
"""Enough for one bad cable contact in twenty packets to show."""


def servo_arm_checks(
    name: str,
    rig: Rig,
    clock: Clock,
    emulator: Collection[int] = (),
    sysfs: Path = Path("/sys"),
) -> Iterator[Check]:
    """One arm, from its port to its pose.

    Args:
        name: The arm's name in the rig.
        rig: The rig.
        clock: Times the readings.
        emulator: Processes that may have the port open.
        sysfs: Where the kernel shows USB adapters.
    """
    config, model = rig.arms[name], rig.arm_model(name)
    assert isinstance(config, DynamixelArm)
    assert isinstance(model, DynamixelArmModel)
    port = serial_port_check(name, config.port, emulator)
    yield port
    if port.status == "fail":
        return
    latency = latency_check(name, config, sysfs)
    yield latency
    if latency.status == "fail":
        rig = _patient(rig, name, config)  # the rest can be looked at all the same
    arm = open_arm(name, rig, clock, None)
    with driver_warnings() as said:
        refusal = refusal_of(arm)
    for sentence in said:  # settings that were put right need no remedy
        yield from warnings([sentence], "check its cable" if "attempts" in sentence else "")
    if refusal is not None:
        yield failed(name, refusal)
        return
    servos = len(servos_of(model))
    try:
        seen = f"{servos} servos answer at {config.baud} baud and are the models described"
        yield Check("ok", name, seen)
        yield supply_check(name, _slow_readings(arm, servos), servos, rig)
        yield bus_check(name, arm, 1 / rig.rates.arm_hz, clock)
        yield pose_check(name, arm.read(), rig)
        arm.close()
        yield firmware_check(name, DynamixelBus(name, servos_of(model), _port(config, clock)))
    except DeviceError as error:
        yield failed(name, error)
    finally:
        arm.close()


def _patient(rig: Rig, name: str, arm: DynamixelArm) -> Rig:
    """The rig with an arm whose USB adapter is allowed to be slow."""
    slack = {
        "usb_latency_timer_ms": FTDI_DEFAULT_MS,
        "read_timeout_s": max(arm.read_timeout_s, WITH_SLOW_ADAPTER_S),
    }
    return rig.model_copy(update={"arms": {**rig.arms, name: arm.model_copy(update=slack)}})


def _port(config: DynamixelArm, clock: Clock) -> QuietPort:
    return QuietPort(config.port, clock, config.baud)


def _slow_readings(arm: Arm, servos: int) -> DeviceHealth:
    """What the arm says once every servo has been asked both of its questions.

    A servo that stays silent is given the rounds after which the driver calls it so.
    """
    polls_per_round = 2 * servos
    for _ in range(SILENT_ROUNDS):
        for _ in range(polls_per_round):
            health = arm.poll_health()
        if not health.ok or sum(key.endswith(TEMPERATURE) for key in health.values) == servos:
            break
    return health


def supply_check(name: str, health: DeviceHealth, servos: int, rig: Rig) -> Check:
    """Temperature, supply voltage and hardware errors of all servos."""
    thing, safety = f"{name} servos", rig.safety
    if not health.ok:
        remedy = "remove the cause, then switch the arm's power off and on"
        return Check("fail", thing, health.detail, remedy)
    heat = _values(health, TEMPERATURE)
    volts = _values(health, VOLTAGE)
    if len(heat) < servos or len(volts) < servos:
        seen = f"only {len(heat)} of {servos} tell their temperature"
        return Check("fail", thing, seen, "check the cables between the servos")
    hottest, weakest = max(heat, key=heat.__getitem__), min(volts, key=volts.__getitem__)
    seen = (
        f"no error, hottest {hottest} with {heat[hottest]:.0f} C, "
        f"supply {volts[weakest]:.1f} to {max(volts.values()):.1f} V"
    )
    if heat[hottest] > safety.max_temperature_c:
        remedy = f"over {safety.max_temperature_c:g} C: let the arm cool at its rest pose"
        return Check("fail", thing, seen, remedy)
    if volts[weakest] < safety.min_voltage_v:
        remedy = f"under {safety.min_voltage_v:g} V at {weakest}: check power supply and plugs"
        return Check("fail", thing, seen, remedy)
    return Check("ok", thing, seen)


def _values(health: DeviceHealth, ending: str) -> dict[str, float]:
    return {k.removesuffix(ending): v for k, v in health.values.items() if k.endswith(ending)}


def bus_check(name: str, arm: Arm, period_s: float, clock: Clock) -> Check:
    """How long readings take, and whether some had to be repeated.

    Raises:
        DeviceError: a reading failed for good.
    """
    thing = f"{name} bus"
    spent_s = []
    for _ in range(READINGS):
        start_ns = clock.now_ns()
        arm.read()
        spent_s.append((clock.now_ns() - start_ns) / 1e9)
    median_s = statistics.median(spent_s)
    repeated = arm.poll_health().values.get("read_retries", 0.0)
    seen = f"{READINGS} readings of {median_s * 1e3:.1f} ms, {repeated:.0f} repeated"
    if median_s > period_s:
        remedy = f"over the {period_s * 1e3:g} ms of rates.arm_hz: raise baud or lower the rate"
        return Check("warn", thing, seen, remedy)
    if repeated:
        remedy = "packets get lost: check the bus cables and plugs, and the USB hub"
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, seen)


def firmware_check(name: str, bus: DynamixelBus) -> Check:
    """Whether servos of one model have one firmware; what a driver needs it asks for itself.

    Args:
        name: The arm.
        bus: A closed bus; closed again afterwards.

    Raises:
        DeviceError: a servo does not answer.
    """
    thing = f"{name} firmware"
    bus.open()
    try:
        versions = {i: bus.read(i, table.FIRMWARE) for i in bus.servos}
    finally:
        bus.port.closePort()
    newest: dict[str, int] = {}
    for i, servo in bus.servos.items():
        newest[servo.model] = max(versions[i], newest.get(servo.model, 0))
    old = [
        f"{servo} has {versions[i]}"
        for i, servo in bus.servos.items()
        if servo.model != table.ANY_MODEL and versions[i] < newest[servo.model]
    ]
    if old:
        seen = f"{', '.join(old)}, others of the same model a newer one"
        return Check("warn", thing, seen, "update these servos with Dynamixel Wizard")
    return Check("ok", thing, f"version {' and '.join(map(str, sorted(set(versions.values()))))}")
