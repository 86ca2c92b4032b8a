"""The emulated rig as calibration sees it, with the truth at hand.

Physics, servo buses and drivers are those of ``--lockstep``; a test's operator puts limp arms
into poses, and cameras photograph a scene that has a ChArUco board in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np
import simplejpeg

from calibration.board import Board
from calibration.cameras import Intrinsics
from calibration.poses import inverse, pose
from drivers.base import DeviceHealth
from drivers.dynamixel.table import RAD_PER_TICK
from drivers.dynamixel.viperx import DynamixelArm
from drivers.emulated.addresses import lockstep_rig
from drivers.emulated.camera.board import add_board, camera_in_world, put_board
from drivers.emulated.camera.rendering import Backend, SceneRenderer
from drivers.emulated.plant import ARMS, SCENE
from drivers.emulated.tasks import OBJECTS
from drivers.emulated.world import EmulatedWorld
from teleop.clock import NS_PER_S, Clock, VirtualClock, ns_from_s
from teleop.messages import FloatArray, Frame
from teleop.rig import Rig

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")


class WorldClock(VirtualClock):
    """A clock whose sleeps let the emulated world live on."""

    def __init__(self) -> None:
        super().__init__(ns_from_s(1))
        self.world: EmulatedWorld | None = None

    def sleep_until_ns(self, deadline_ns: int) -> None:
        super().sleep_until_ns(deadline_ns)
        if self.world is not None:
            self.world.advance_to(self.now_ns())


class Workshop:
    """The rig in lockstep with nobody's hand on it.

    Args:
        rig: As read from its file.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = lockstep_rig(rig)
        self.clock = WorldClock()
        self.world = EmulatedWorld(self.rig, self.clock, "free", hands=False)
        self.clock.world = self.world

    def arm(self, name: str, rig: Rig | None = None) -> DynamixelArm:
        """The real driver of an arm, connected."""
        told = rig or self.rig
        arm: Any = told.arms[name]
        model: Any = told.arm_model(name)
        made = DynamixelArm(name, arm, model, lambda: self.world.arm_port(name, self.clock), 0.2)
        made.connect()
        return made

    def mount(self, arm: str, **ticks: int) -> None:
        """Turn the horns of joints, or of the gripper; both servos of a joint alike."""
        for servo in self.world.chains[arm].servos:
            joint = self.world.bank.axes[servo.axis].name
            servo.mounted_rad = ticks.get(joint, 0) * RAD_PER_TICK

    def place(self, arm: str, joints_rad: Sequence[float], opening: float = 0.5) -> None:
        """A hand puts a limp arm somewhere."""
        self.world.plant.set_arm(arm, np.array(joints_rad), opening)

    def joints_rad(self, arm: str) -> FloatArray:
        """The true angles."""
        return self.world.plant.axis_angle_rad[self.world.plant.axes_of(arm)][:6]


@dataclass
class ScriptedGuide:
    """An operator who does what the test says at each request.

    Args:
        act: Called with the request's number and text; False ends the procedure.
    """

    act: Callable[[int, str], bool] = lambda number, text: True
    asked: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=VirtualClock)
    seconds: float = 0.0
    """How long the operator takes for each."""

    def say(self, text: str) -> None:
        self.heard.append(text)

    def ready(self, text: str, meanwhile: Callable[[], object] = lambda: None) -> bool:
        self.asked.append(text)
        agreed = self.act(len(self.asked) - 1, text)
        for _ in range(round(self.seconds * 20)):  # as the terminal does
            self.clock.sleep_until_ns(self.clock.now_ns() + 50_000_000)
            meanwhile()
        return agreed


def follower_kinematics() -> Callable[[FloatArray], FloatArray]:
    """Forward kinematics of the emulated ViperX 300, from the model the physics has."""
    model = mujoco.MjModel.from_xml_path(str(SCENE / "follower.xml"))
    data = mujoco.MjData(model)
    places = [model.joint(name).qposadr[0] for name in JOINTS]
    site = model.site("tcp").id

    def tool_in_base(joints_rad: FloatArray) -> FloatArray:
        data.qpos[places] = joints_rad
        mujoco.mj_kinematics(model, data)
        return pose(data.site_xmat[site].reshape(3, 3), data.site_xpos[site])

    return tool_in_base


class BoardScene:
    """One follower, its cameras and a board that can be put anywhere or onto the gripper.

    Args:
        arm: The follower.
        board: What is printed.
        backend: Of the renderer.
        on_gripper: Pose (4, 4) of the board in the tool, which then carries it.
    """

    def __init__(
        self, arm: str, board: Board, backend: Backend, on_gripper: FloatArray | None = None
    ) -> None:
        self._arm = arm
        self.board = board
        spec = mujoco.MjSpec.from_file(str(SCENE / "aloha.xml"))
        for other in ARMS:
            if other != arm:
                spec.delete(spec.body(f"{other}/base"))
        for thing in OBJECTS:
            spec.delete(spec.body(thing))
        self._on_gripper = on_gripper
        add_board(spec, board)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._places = [self.model.joint(f"{arm}/{name}").qposadr[0] for name in JOINTS]
        self._renderer = SceneRenderer(self.model, backend)

    def put_board(self, board_in_world: FloatArray) -> None:
        """Lay the free board somewhere."""
        put_board(self._renderer, self.board, board_in_world)

    def camera_in_world(self, camera: str, joints_rad: FloatArray) -> FloatArray:
        """Pose (4, 4) of a camera, OpenCV's axes."""
        self.data.qpos[self._places] = joints_rad
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        return camera_in_world(self.data, camera)

    @property
    def base_in_world(self) -> FloatArray:
        """Pose (4, 4) of the arm's base."""
        mujoco.mj_kinematics(self.model, self.data)
        body = self.data.body(f"{self._arm}/base")
        return pose(body.xmat.reshape(3, 3), body.xpos)

    def camera_in_base(self, camera: str, joints_rad: FloatArray) -> FloatArray:
        """The same in the arm's base."""
        return inverse(self.base_in_world) @ self.camera_in_world(camera, joints_rad)

    def lens(self, camera: str, width: int, height: int) -> Intrinsics:
        """The truth that intrinsic calibration is to find."""
        fovy = math.radians(self.model.camera(camera).fovy[0])
        focal = height / 2 / math.tan(fovy / 2)
        centre = (width / 2 - 0.5, height / 2 - 0.5)
        matrix = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]])
        return Intrinsics(width, height, matrix, np.zeros(5))

    def picture(self, camera: str, joints_rad: FloatArray, width: int, height: int) -> Any:
        """What a camera sees, RGB."""
        self.data.qpos[self._places] = joints_rad
        if self._on_gripper is not None:
            mujoco.mj_kinematics(self.model, self.data)
            site = self.data.site(f"{self._arm}/tcp")
            self.put_board(pose(site.xmat.reshape(3, 3), site.xpos) @ self._on_gripper)
        return self._renderer.render(self.data.qpos, camera, width, height)

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()


class SceneCamera:
    """A camera device whose frames arrive, and are stamped, some time after exposure.

    Args:
        shoot: Makes the picture, RGB (H, W, 3), of this moment.
        clock: Moves the emulated world.
        fps: Frames a second.
        late_s: From exposure to stamp.
    """

    def __init__(
        self, shoot: Callable[[], Any], clock: WorldClock, fps: float, late_s: float = 0.0
    ) -> None:
        self._shoot = shoot
        self._clock = clock
        self._period_ns = round(NS_PER_S / fps)
        self._late_ns = ns_from_s(late_s)
        self._next_ns = clock.now_ns()
        self._coming: list[Frame] = []
        self._seq = 0

    def connect(self) -> None: ...

    def take(self, now_ns: int) -> list[Frame]:
        # Nobody moves the world between two calls but by sleeping, so that exposure can wait.
        if now_ns >= self._next_ns:
            image = np.ascontiguousarray(self._shoot())
            height, width = image.shape[:2]
            jpeg = simplejpeg.encode_jpeg(image, 95)
            stamp_ns = now_ns + self._late_ns
            self._coming.append(Frame(stamp_ns, self._seq, stamp_ns, "jpeg", width, height, jpeg))
            self._seq += 1
            self._next_ns += self._period_ns * (1 + (now_ns - self._next_ns) // self._period_ns)
        done = [frame for frame in self._coming if frame.stamp_ns <= now_ns]
        self._coming = [frame for frame in self._coming if frame.stamp_ns > now_ns]
        return done

    def health(self) -> DeviceHealth:
        return DeviceHealth()

    def close(self) -> None: ...


def by_rng(rng: np.random.Generator, spread: float) -> FloatArray:
    """Small random joint changes, (6,)."""
    return rng.uniform(-spread, spread, 6)
