"""The emulated rig as a whole: physics, servo buses, the operator's hand, cameras.

In lockstep the runner moves the world and devices live inside it (``arm_port``, ``camera``).
In the process runner the world is a process of its own that keeps up with real time, serves
each servo bus on a pseudo-terminal, and hands snapshots to the camera process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drivers.emulated.dynamixel.bank import ServoBank, axes_of
from drivers.emulated.dynamixel.chain import ServoChain, chains_of
from drivers.emulated.dynamixel.virtual_port import VirtualPort
from drivers.emulated.fair_lock import FairLock
from drivers.emulated.operators.operator import Operator, ScriptedOperator
from drivers.emulated.operators.recorded import RecordedOperator
from drivers.emulated.plant import START_RAD, Plant
from teleop.clock import Clock, ns_from_s
from teleop.rig import Rig

if TYPE_CHECKING:
    from drivers.emulated.camera.plant_camera import PlantCamera
    from drivers.emulated.franka.operator import FrankaOperator
    from drivers.emulated.operators.device import DeviceOperator

MAX_LAG_S = 0.1
"""When the machine cannot keep up, the physics slips behind real time instead of bursting."""


class EmulatedWorld:
    """Physics and emulated devices on one timeline.

    Args:
        rig: The rig; devices get the names of its arms.
        clock: Tells when the world begins.
        task: Which scene.
        seed: Decides where objects lie and how the operator's hand varies.
        hands: Whether somebody pulls the leaders.
        operator_file: A recorded hand motion to play instead of doing the task.

    Raises:
        UnknownNameError: no such task, or an arm that the emulated rig does not have.
        DeviceError: the operator file is not a hand motion.
    """

    def __init__(
        self,
        rig: Rig,
        clock: Clock,
        task: str,
        seed: int = 0,
        hands: bool = True,
        operator_file: Path | None = None,
    ) -> None:
        self.rig = rig
        self.lock = FairLock()
        """Held while the physics moves and while a servo bus is served."""
        names = sorted(rig.arms)
        self.plant = Plant(names, task, seed, _heavy(rig))
        self.bank = ServoBank(axes_of(rig))
        self.chains: dict[str, ServoChain] = chains_of(rig, self.bank)
        self.cameras: dict[str, PlantCamera] = {}
        """Lockstep cameras that have been asked for."""
        self.operator: Operator | None = None
        self.hands = hands
        self.device_operators: list[DeviceOperator | FrankaOperator] = []
        """Added by what serves the input devices of a live world."""
        if hands and rig.leaders:
            self.operator = (
                RecordedOperator(self.plant, operator_file)
                if operator_file is not None
                else ScriptedOperator(self.plant, seed)
            )
        self._phase = "starting"
        self._episode: int | None = None
        self._no_hand = np.zeros(len(self.plant.axis_angle_rad))
        self._step_ns = ns_from_s(self.plant.step_s)
        self._time_ns = clock.now_ns()
        self.slipped_s = 0.0
        for name in self.plant.arms:
            self.plant.set_arm(name, np.array(rig.arm_model(name).sleep_rad), 0.0)

    def leave_standing(self, arm: str) -> None:
        """The arm as an operator has left it: in its start pose, holding."""
        self.plant.set_arm(arm, np.array(START_RAD), 0.0)
        self._step()  # the servos look where they are
        self.chains[arm].leave_on()

    def advance_to(self, now_ns: int) -> None:
        """Step the physics up to this instant."""
        lag_ns = now_ns - self._time_ns
        if self.rig.backend != "lockstep" and lag_ns > ns_from_s(MAX_LAG_S):
            self.slipped_s += lag_ns / 1e9
            self._time_ns = now_ns
        while self._time_ns + self._step_ns <= now_ns:
            self._step()
        with self.lock:
            for chain in self.chains.values():
                chain.advance(now_ns)

    def _step(self) -> None:
        plant = self.plant
        with self.lock:
            torque = self.bank.torque_nm(plant.step_s, plant.axis_angle_rad, plant.axis_rate_rad_s)
            hand = self._no_hand
            if self.operator is not None:
                hand = self.operator.hand_torque_nm(self._phase, plant.time_s)
            plant.step(torque, hand)
            self._time_ns += self._step_ns

    def set_phase(self, phase: str, episode: int) -> None:
        """Follow the session: a new episode becoming ready lays out the scene anew."""
        with self.lock:
            if phase == "ready" and episode != self._episode:
                self._episode = episode
                self.plant.reset(episode)
                for operator in self._operators:
                    operator.begin(episode)
            self._phase = phase

    @property
    def phase(self) -> str:
        """The session's phase, as last heard."""
        return self._phase

    @property
    def operator_finished(self) -> bool:
        """Whether all hands have done what they wanted in this episode."""
        working = [operator.finished for operator in self._operators]
        return self._phase == "running" and bool(working) and all(working)

    @property
    def _operators(self) -> list[Operator | DeviceOperator | FrankaOperator]:
        return [*([] if self.operator is None else [self.operator]), *self.device_operators]

    def arm_port(self, name: str, clock: Clock) -> VirtualPort:
        """A lockstep arm's serial port, waiting in the time of ``clock``."""
        return VirtualPort(self.chains[name], clock)

    def camera(self, name: str) -> PlantCamera:
        """A lockstep camera."""
        from drivers.emulated.camera.plant_camera import PlantCamera  # loads an OpenGL library

        self.cameras[name] = PlantCamera(name, self.rig.cameras[name], self.plant)
        return self.cameras[name]

    def close(self) -> None:
        """Nothing is held open by the physics."""


def _heavy(rig: Rig) -> list[str]:
    """Leaders whose weight is felt: those that are to carry themselves."""
    feels = {name: getattr(arm, "feel", None) for name, arm in rig.leaders.items()}
    return [name for name, feel in feels.items() if feel is not None and feel.gravity]


def build_world(rig: Rig, clock: Clock, options: Mapping[str, object]) -> EmulatedWorld:
    """The world that a job asks for; ``options`` as in ``teleop.assembly.specs_of``."""
    operator_file = options.get("operator_file")
    return EmulatedWorld(
        rig,
        clock,
        task=str(options["task"]),
        seed=int(str(options.get("seed", 0))),
        hands=bool(options.get("hands", False)),
        operator_file=Path(str(operator_file)) if operator_file else None,
    )
