"""What an arm node says: readings, the arm's own trace, and what was let through."""

from __future__ import annotations

import numpy as np

from drivers.base import Arm, ArmReading, TracingArm
from teleop import topics
from teleop.clock import Clock
from teleop.limits import Limited
from teleop.messages import ArmApplied, ArmCommand, ArmTrace, FloatArray
from teleop.node import Outputs, Sequencer


class ArmVoice:
    """Makes the messages of one arm.

    Args:
        name: The arm's name in the rig.
        arm: The arm, asked for its trace if it keeps one.
        clock: Stamps what was written; the device boundary is here.
    """

    def __init__(self, name: str, arm: Arm, clock: Clock) -> None:
        self._state, self._applied = topics.arm_state(name), topics.arm_applied(name)
        self._trace = topics.arm_trace(name)
        self._tracing = arm if isinstance(arm, TracingArm) else None
        self._clock = clock
        self._seq = Sequencer()

    @property
    def publications(self) -> tuple[str, ...]:
        """The topics spoken on."""
        traces = () if self._tracing is None else (self._trace,)
        return (self._state, self._applied, *traces)

    def reading(self, reading: ArmReading) -> Outputs:
        """A reading, and all that the arm's own control loop has seen since the last one."""
        outputs: Outputs = [(self._state, reading.as_state(self._seq.next(self._state)))]
        for sample in () if self._tracing is None else self._tracing.trace():
            told = ArmTrace(
                sample.stamp_ns,
                self._seq.next(self._trace),
                sample.robot_ms,
                sample.position_rad,
                sample.velocity_rad_s,
                sample.torque_nm,
                sample.external_torque_nm,
            )
            outputs.append((self._trace, told))
        return outputs

    def applied(
        self,
        position_rad: FloatArray,
        gripper: float | None,
        command: ArmCommand | None,
        mode: str,
        limited: Limited,
    ) -> Outputs:
        """What has been written, under the command in force (None: holding)."""
        told = ArmApplied(
            stamp_ns=self._clock.now_ns(),
            seq=self._seq.next(self._applied),
            position_rad=position_rad,
            gripper=np.nan if gripper is None else gripper,
            command_seq=-1 if command is None else command.seq,
            origin_ns=0 if command is None else command.origin_ns,
            mode=mode,
            limited=int(limited),
        )
        return [(self._applied, told)]
