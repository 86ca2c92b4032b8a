"""What makes an arm node give up obeying: a lost or deaf bus, a servo in trouble.

A fault lasts as long as its cause. Most end the commander's lease for good; a bus that is
silent for a moment does not, since the next commander has to engage from the pose then
measured anyway.

Torque that went other than by our own command (an overloaded gripper, a power dip) outlasts
its cause: an arm that has sagged must not stiffen while nobody expects it. It is told until the
operator clears an emergency stop, which is the deliberate act that has the arm hold again.
"""

from __future__ import annotations

from dataclasses import dataclass

from drivers.base import DeviceHealth
from teleop.errors import DeviceError, DeviceLostError
from teleop.rig import Safety

FAILURES_TO_FAULT = 5
"""Accesses in a row that must fail; each has its own retries, so this takes about 0.1 s."""

REMEDY = (
    "support the arm and remove the cause, then clear it by emergency stop, then clear and confirm"
)

TEMPERATURE = "_temperature_c"
VOLTAGE = "_voltage_v"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an arm does not obey."""

    reason: str
    final: bool
    """Whether the lease in force is ended for good."""


class ArmFaults:
    """Keeps account of an arm's failures and slow readings."""

    def __init__(self, safety: Safety) -> None:
        self.values: dict[str, float] = {}
        """Newest slow readings by name."""
        self.failures = 0
        """Failed accesses since the start."""
        self._safety = safety
        self._lost = ""
        self._in_a_row = 0
        self._last_failure = ""
        self._complaint = ""
        self._lasting = ""
        self._mending_failed = ""
        self._torque_refused = ""

    @property
    def lost(self) -> bool:
        """Whether the device is gone and must be opened again."""
        return bool(self._lost)

    @property
    def lasting(self) -> bool:
        """Whether only the operator's act can end the fault."""
        return bool(self._lasting)

    def bus_answered(self) -> None:
        """A reading came."""
        self._in_a_row = 0
        if not self._lasting:  # An arm that stopped can be read, and refuses every command alike.
            self._last_failure = ""

    def bus_failed(self, error: DeviceError) -> bool:
        """An access failed; tells whether these words are new."""
        new = str(error) != self._last_failure
        self._last_failure = str(error)
        self.failures += 1
        self._in_a_row += 1
        if isinstance(error, DeviceLostError):
            self._lost = str(error)
        return new

    def still_lost(self, error: DeviceError) -> None:
        """Opening the device again did not work."""
        self._lost = str(error)

    def found_again(self) -> None:
        """The device was opened again; what it said before no longer counts."""
        self._lost = self._complaint = ""
        self._in_a_row = 0
        self.values.clear()

    def take(self, health: DeviceHealth) -> None:
        """Take in one step of the slow round-robin read."""
        self.values.update(health.values)
        self._complaint = "" if health.ok else health.detail
        if health.lasting:
            self._lasting = health.detail

    def mended(self) -> None:
        """The operator acted, and the motors that had failed are restarted."""
        self._lasting = self._mending_failed = self._complaint = ""

    def not_mended(self, error: DeviceError) -> None:
        """The operator acted, and it did not help."""
        self._mending_failed = str(error)

    def torque_obeyed(self) -> None:
        """Torque is switched as wanted."""
        self._torque_refused = ""

    def torque_refused(self, error: DeviceError) -> None:
        """Torque could not be switched as wanted; it is tried again."""
        self._torque_refused = str(error)

    def present(self) -> Fault | None:
        """The worst fault there is now."""
        if self._lost:
            return Fault(f"lost: {self._lost}", final=True)
        if self._lasting:
            words = (self._lasting, self._mending_failed, REMEDY)
            return Fault("; ".join(filter(None, words)), final=True)
        if servo := self._servo_fault():
            return Fault(servo, final=True)
        if self._torque_refused:
            return Fault(self._torque_refused, final=False)
        if self._in_a_row >= FAILURES_TO_FAULT:
            reason = f"reads fail, {self._in_a_row} in a row: {self._last_failure}"
            return Fault(reason, final=False)
        return None

    def _servo_fault(self) -> str:
        if self._complaint:
            return self._complaint
        safety = self._safety
        for name, value in self.values.items():
            if name.startswith(("max_", "min_")):
                continue  # A summary over the joints, which are named themselves.
            if name.endswith(TEMPERATURE) and value > safety.max_temperature_c:
                return (
                    f"{name.removesuffix(TEMPERATURE)} is at {value:g} C, over "
                    f"safety.max_temperature_c {safety.max_temperature_c:g}; let it cool down"
                )
            if name.endswith(VOLTAGE) and value < safety.min_voltage_v:
                return (
                    f"{name.removesuffix(VOLTAGE)} has {value:g} V, under "
                    f"safety.min_voltage_v {safety.min_voltage_v:g}; check the power supply"
                )
        return ""
