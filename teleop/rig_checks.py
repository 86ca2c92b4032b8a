"""Cross-checks of a rig: what single fields cannot tell. All faults are collected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from teleop.addresses import topics_of
from teleop.errors import UnknownNameError
from teleop.kinematic_models import kinematic_model_file
from teleop.rig_dynamixel import DynamixelArm, DynamixelArmModel
from teleop.rig_franka import FrankaArm
from teleop.rig_input_checks import input_faults

if TYPE_CHECKING:
    from teleop.rig import Arm, ArmModel, Rig

T = TypeVar("T")

NARROWEST_M = 0.01
"""Of a workspace, in any direction: less is a slip of the pen."""
MODEL_DRIVER = {"dynamixel": "dynamixel", "interbotix": "dynamixel", "franka": "franka"}
"""What kind of arm model each arm driver takes: an Interbotix stack drives the same servos."""
SUPPORTED_BAUD = (57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000)
"""Baud rates of register 8 that termios has names for."""


def faults_of(rig: Rig) -> list[str]:
    """Every fault, each beginning with its path in the file."""
    faults: list[str] = []
    for name, model in rig.arm_models.items():
        faults += _model_faults(f"arm_models.{name}", model)
    for name, arm in rig.arms.items():
        faults += _arm_faults(rig, name, arm)
    faults += _pairing_faults(rig)
    faults += _feel_faults(rig)
    faults += input_faults(rig)
    faults += _device_address_faults(rig)
    faults += _task_faults(rig)
    faults += _operator_faults(rig)
    faults += _network_faults(rig)
    return faults


def _model_faults(path: str, model: ArmModel) -> Iterator[str]:
    count = len(model.joints)
    for i, joint in enumerate(model.joints):
        where = f"{path}.joints.{i} ({joint.name})"
        if joint.min_rad >= joint.max_rad:
            yield f"{where}: min_rad {joint.min_rad} must be below max_rad {joint.max_rad}"
    for key in ("start_rad", "sleep_rad"):
        pose = getattr(model, key)
        if len(pose) != count:
            yield f"{path}.{key}: {len(pose)} values for {count} joints"
            continue
        for joint, q in zip(model.joints, pose, strict=True):
            if not joint.min_rad <= q <= joint.max_rad:
                yield (
                    f"{path}.{key}: {joint.name} = {q} rad is outside its limits "
                    f"{joint.min_rad} ... {joint.max_rad}"
                )
    if (box := model.workspace) is not None:
        for axis, low, high in zip("xyz", box.min_m, box.max_m, strict=True):
            if high - low < NARROWEST_M:
                yield f"{path}.workspace: {axis} from {low} to {high} m is no room to move in"
    if model.kinematics is not None:
        try:
            kinematic_model_file(model.kinematics)
        except UnknownNameError as error:
            yield f"{path}.kinematics: {error}"
    names = [joint.name for joint in model.joints]
    yield from (f"{path}.joints: name {n!r} used twice" for n in _repeated(names))
    if isinstance(model, DynamixelArmModel):
        yield from _servo_faults(path, model)


def _servo_faults(path: str, model: DynamixelArmModel) -> Iterator[str]:
    ids = [j.id for j in model.joints] + [
        j.shadow_id for j in model.joints if j.shadow_id is not None
    ]
    if model.gripper is not None:
        ids.append(model.gripper.id)
        if model.gripper.closed_rad == model.gripper.open_rad:
            yield f"{path}.gripper: closed_rad and open_rad are both {model.gripper.open_rad}"
    yield from (f"{path}: servo id {i} used twice" for i in _repeated(ids))


def _arm_faults(rig: Rig, name: str, arm: Arm) -> Iterator[str]:
    path = f"arms.{name}"
    if arm.model not in rig.arm_models:
        known = ", ".join(sorted(rig.arm_models)) or "none"
        yield f"{path}.model: no arm model {arm.model!r}; known: {known}"
    elif rig.arm_models[arm.model].driver != MODEL_DRIVER[arm.driver]:
        yield f"{path}.driver: {arm.driver!r} but model {arm.model!r} is for another driver"
    if isinstance(arm, FrankaArm):
        return
    if isinstance(arm, DynamixelArm) and arm.baud not in SUPPORTED_BAUD:
        yield f"{path}.baud: {arm.baud} is not one of {', '.join(map(str, SUPPORTED_BAUD))}"
    if arm.gripper_closed_rad is not None and arm.gripper_closed_rad == arm.gripper_open_rad:
        yield f"{path}: gripper_closed_rad and gripper_open_rad are equal"


def _pairing_faults(rig: Rig) -> Iterator[str]:
    for name, arm in rig.arms.items():
        path = f"arms.{name}.leader"
        if arm.role != "follower":
            if arm.leader is not None:
                yield f"{path}: {name} is a {arm.role} arm and cannot follow {arm.leader!r}"
            continue
        if arm.leader is None:
            continue
        leader = rig.arms.get(arm.leader)
        if leader is None or leader.role != "leader":
            known = ", ".join(rig.leaders) or "none"
            yield f"{path}: no leader arm {arm.leader!r}; leaders: {known}"
        elif arm.model in rig.arm_models and leader.model in rig.arm_models:
            mine, theirs = (len(rig.arm_models[a.model].joints) for a in (arm, leader))
            if mine != theirs:
                yield f"{path}: {name} has {mine} joints, its leader {arm.leader} has {theirs}"
    followed = [arm.leader for arm in rig.arms.values() if arm.leader is not None]
    yield from (f"arms: leader {n!r} is followed by two arms" for n in _repeated(followed))


def _feel_faults(rig: Rig) -> Iterator[str]:
    for name, arm in rig.arms.items():
        if not isinstance(arm, DynamixelArm) or arm.feel is None or arm.model not in rig.arm_models:
            continue
        path, feel, model = f"arms.{name}.feel", arm.feel, rig.arm_model(name)
        if arm.role != "leader":
            yield f"{path}: {name} is a {arm.role}; only a leader is guided by hand"
        if feel.gripper_spring is not None and model.gripper is None:
            yield f"{path}.gripper_spring: arm model {arm.model!r} has no gripper"
        if feel.barrier is not None and name not in (a.leader for a in rig.arms.values()):
            yield f"{path}.barrier: no arm has {name!r} as its leader"
        if feel.gravity is None:
            continue
        if model.kinematics is None:
            yield f"{path}.gravity: arm model {arm.model!r} has no kinematics to weigh it by"
        joints = [joint.name for joint in model.joints]
        for joint in feel.gravity.max_current_a:
            if joint not in joints:
                known = ", ".join(joints)
                yield f"{path}.gravity.max_current_a: no joint {joint!r}; joints: {known}"


def _device_address_faults(rig: Rig) -> Iterator[str]:
    users: dict[str, list[str]] = defaultdict(list)
    for name, arm in rig.arms.items():
        users[arm.address].append(f"arms.{name}")
    for name, camera in rig.cameras.items():
        users[str(camera.source)].append(f"cameras.{name}.source")
    for address, paths in users.items():
        if len(paths) > 1:
            yield f"{' and '.join(paths)}: both use {address!r}"
    yield from (
        f"{n}: a name may be used once among arms, cameras and inputs"
        for n in _repeated([*rig.arms, *rig.cameras, *rig.inputs])
    )


def _task_faults(rig: Rig) -> Iterator[str]:
    for name, task in rig.tasks.items():
        for camera in task.cameras or ():
            if camera not in rig.cameras:
                known = ", ".join(rig.cameras) or "none"
                yield f"tasks.{name}.cameras: no camera {camera!r}; known: {known}"


def _operator_faults(rig: Rig) -> Iterator[str]:
    keys = rig.operator.keys.model_dump()
    for key in _repeated(list(keys.values())):
        users = ", ".join(name for name, value in keys.items() if value == key)
        yield f"operator.keys: {key!r} is used for {users}"
    spellings = set(keys.values())
    for folded in _repeated([key.casefold() for key in spellings]):
        alike = {name: key for name, key in keys.items() if key.casefold() == folded}
        users = ", ".join(f"{name} {key!r}" for name, key in alike.items())
        yield f"operator.keys: {users} differ only by case, and are the same key"
    for name, key in keys.items():
        if len(key) != 1 and key not in ("enter", "space", "esc", "tab"):
            yield f"operator.keys.{name}: {key!r} is not one character, enter, space, esc or tab"


def _network_faults(rig: Rig) -> Iterator[str]:
    network = rig.network
    topics = topics_of(rig)
    for topic in network.endpoints:
        if topic not in topics:
            yield f"network.endpoints.{topic}: the rig has no such topic"
    if network.base_port + len(topics) > 65_535:
        yield f"network.base_port: {network.base_port} leaves no room for {len(topics)} topics"
    taken = [e.address for e in network.endpoints.values()]
    yield from (f"network.endpoints: address {a} used twice" for a in _repeated(taken))
    remote = [network.host] + [a.removeprefix("tcp://").rsplit(":", 1)[0] for a in taken]
    if network.security is None:
        for host in remote:
            if not is_loopback(host):
                yield (
                    f"network: {host} is not loopback, so network.security "
                    "(key_dir, identity, peers) is needed"
                )
    else:
        for topic, endpoint in network.endpoints.items():
            if endpoint.peer is None:
                continue
            role = network.security.peers.get(endpoint.peer)
            where = f"network.endpoints.{topic}.peer"
            if role is None:
                yield f"{where}: {endpoint.peer!r} is not in security.peers"
            elif _commands(topic) and role not in ("commander", "admin"):
                yield f"{where}: {endpoint.peer!r} is {role}, only a commander may publish this"


def _commands(topic: str) -> bool:
    return topic.endswith("/command") or topic.startswith(("session/", "policy/"))


def is_loopback(host: str) -> bool:
    """Whether traffic to this host stays on the machine."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _repeated(items: list[T]) -> list[T]:
    return sorted({i for i in items if items.count(i) > 1}, key=str)
