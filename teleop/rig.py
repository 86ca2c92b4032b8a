"""The rig description, ``hardware.yaml``, as frozen and validated models.

The models are the documentation of the file: each field has its unit in its name. A file
may start with ``extends: other.yaml``; mappings are merged key by key, anything else is
replaced, and ``null`` removes a key. Checks across parts live in
``teleop.rig_checks`` and run when a file is read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from teleop.rig_cartesian import CartesianSettings
from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel
from teleop.rig_franka import FrankaArm, FrankaArmModel
from teleop.rig_inputs import Input, WebXrServer
from teleop.rig_interbotix import InterbotixArm
from teleop.rig_parts import ApproachSpeed, Model, Name, Positive


def _driver_of(part: Any) -> Any:
    """What tells kinds of arms apart; Dynamixel arms may leave it out."""
    if isinstance(part, dict):
        return part.get("driver", "dynamixel")
    return getattr(part, "driver", None)


ArmModel = Annotated[
    Annotated[DynamixelArmModel, Tag("dynamixel")] | Annotated[FrankaArmModel, Tag("franka")],
    Discriminator(_driver_of),
]
Arm = Annotated[
    Annotated[DynamixelArm, Tag("dynamixel")]
    | Annotated[FrankaArm, Tag("franka")]
    | Annotated[InterbotixArm, Tag("interbotix")],
    Discriminator(_driver_of),
]


class OpenCvCamera(Model):
    """A camera read by ``cv2.VideoCapture``."""

    driver: Literal["opencv"] = "opencv"
    source: str | int
    """Index, stable device path such as ``/dev/v4l/by-path/...``, or URL."""
    width: int = Field(ge=16, le=8192)
    height: int = Field(ge=16, le=8192)
    fps: Positive
    fourcc: str = Field(default="MJPG", min_length=4, max_length=4)
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Used where the camera does not hand over JPEG itself."""
    exposure: float | None = None
    """Camera's own units; None leaves auto exposure on."""
    focus: float | None = None
    white_balance_k: Positive | None = None
    gain: float | None = None


Camera = OpenCvCamera


class Rates(Model):
    """Loop rates of the rig."""

    arm_hz: Positive = Field(default=100.0, le=1000)
    """Beyond 1 kHz no bus of these servos answers: a group read alone takes over a millisecond."""
    row_hz: Positive = 50.0
    """The aligned grid of an episode."""
    health_hz: Positive = 5.0
    phase_hz: Positive = 20.0
    task_hz: Positive = 30.0


class Safety(Model):
    """Limits that hold for whoever commands an arm, each with a bound that keeps it a limit."""

    stale_command_s: Positive = Field(default=0.1, le=1)
    """Age at which a command is no longer obeyed; in a second an arm crosses its workspace."""
    engage_max_rad: Positive = Field(default=0.5, le=math.pi)
    """Refuse to engage when a joint differs more than this from its command; half a turn is
    all that a joint can differ by."""
    engage_velocity_rad_s: ApproachSpeed = 0.8
    """Joint speed cap while closing the remaining difference after engaging."""
    homing_velocity_rad_s: ApproachSpeed = 0.8
    max_step_rad: Positive = Field(default=0.2, le=0.5)
    """Largest change of a joint command from one control tick to the next; half a radian is
    more than the fastest servo turns in a tenth of a second."""
    bus_watchdog_s: float = Field(default=0.2, ge=0.02, le=2.54)
    """Servo register 98 on followers: silence that makes the servos stop by themselves."""
    max_temperature_c: Positive = Field(default=70.0, le=85)
    """The servos switch themselves off at 80 (register 31); far above, nobody is ever warned."""
    min_voltage_v: Positive = 9.5
    stop_silence_s: Positive = Field(default=0.5, le=2)
    """Arms hold when the session's stop state, sent 20 times a second, has not been heard for
    this long."""


class Keys(Model):
    """Keys of the operator's terminal: one character, or ``enter``, ``space``, ``esc``, ``tab``.

    Upper and lower case are the same key.
    """

    start: str = "enter"
    stop: str = "space"
    success: str = "s"
    failure: str = "f"
    redo: str = "r"
    quit: str = "q"
    emergency_stop: str = "e"
    clear_stop: str = "c"
    confirm: str = "y"


class Operator(Model):
    """How the person at the rig works."""

    name: str = ""
    start: Literal["gripper", "key"] = "gripper"
    """Begin an episode by closing all leader grippers, or by the start key only."""
    gripper_closed: float = Field(default=0.25, ge=0, le=1)
    """Leader gripper opening below which it counts as closed."""
    cues: Literal["off", "bell", "speech"] = "bell"
    keys: Keys = Keys()


class Task(Model):
    """A thing to demonstrate."""

    instruction: str
    max_seconds: Positive = 30.0
    cameras: tuple[Name, ...] | None = None
    """Cameras to run for this task; all when not given."""


class Recording(Model):
    """The recorder's settings and what it takes to pass its verdict."""

    sync_s: Positive = 1.0
    """How often journals are forced to disk."""
    min_free_bytes: int = Field(default=2_000_000_000, ge=0)
    warn_late_s: Positive = 0.05
    """Age of a sample, beyond its period, that counts as a gap."""
    min_rate_fraction: float = Field(default=0.9, gt=0, le=1)
    """A stream below this fraction of its nominal rate fails the verdict."""


class Security(Model):
    """CURVE keys, needed as soon as a topic leaves this machine."""

    key_dir: Path
    identity: Name
    """Our own key pair, ``<identity>.key_secret`` in ``key_dir``."""
    peers: dict[Name, Literal["commander", "observer", "recorder", "admin"]]
    """Who may connect, each with ``<name>.key`` in ``key_dir``, and as what."""


class Endpoint(Model):
    """Another address for one topic, for example of a camera on a second machine."""

    address: Annotated[str, Field(pattern=r"^tcp://[^:]+:\d+$")]
    peer: Name | None = None
    """Key name of the machine that publishes there; None when it is this one."""


class Network(Model):
    """Where topics are bound: consecutive TCP ports from ``base_port`` on ``host``."""

    host: str = "127.0.0.1"
    base_port: int = Field(default=5600, ge=1024, le=65000)
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    security: Security | None = None


class Rig(Model):
    """The whole file."""

    schema_version: Literal[1] = 1
    name: Name
    arm_models: dict[Name, ArmModel] = Field(default_factory=dict)
    arms: dict[Name, Arm] = Field(default_factory=dict)
    inputs: dict[Name, Input] = Field(default_factory=dict)
    webxr: WebXrServer = WebXrServer()
    cartesian: CartesianSettings = CartesianSettings()
    cameras: dict[Name, Camera] = Field(default_factory=dict)
    tasks: dict[Name, Task] = Field(default_factory=dict)
    rates: Rates = Rates()
    safety: Safety = Safety()
    operator: Operator = Operator()
    recording: Recording = Recording()
    network: Network = Network()
    backend: Literal["hardware", "emulated", "lockstep"] = "hardware"
    """Set by ``--emulate`` and ``--lockstep``, stored in every episode; not for the file."""

    def arm_model(self, arm: str) -> ArmModel:
        """The model of a named arm."""
        return self.arm_models[self.arms[arm].model]

    @property
    def followers(self) -> dict[str, Arm]:
        """Arms that are moved."""
        return self._with_role("follower")

    @property
    def leaders(self) -> dict[str, Arm]:
        """Arms that people move, for followers to mirror."""
        return self._with_role("leader")

    @property
    def guided(self) -> dict[str, Arm]:
        """Arms that people move and that do the task themselves."""
        return self._with_role("kinesthetic")

    @property
    def limp_arms(self) -> dict[str, Arm]:
        """Arms that are let go for a person to move."""
        return self._with_role("leader", "kinesthetic")

    @property
    def acting(self) -> dict[str, Arm]:
        """Arms whose motion is what an episode teaches: followers, and arms guided by hand."""
        return self._with_role("follower", "kinesthetic")

    def _with_role(self, *roles: str) -> dict[str, Arm]:
        return {name: arm for name, arm in self.arms.items() if arm.role in roles}

    def replaced(self, **parts: Any) -> Rig:
        """A copy with some top-level parts replaced, each validated by itself."""
        return Rig.model_validate({**self.model_dump(), **parts})
