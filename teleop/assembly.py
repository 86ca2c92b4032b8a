"""What nodes a job needs, named by string so that nothing is imported before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from teleop.errors import RigError, UnknownNameError
from teleop.processes import NodeSpec
from teleop.rig import Rig
from teleop.rig_inputs import nodes_of
from teleop.session_plan import AutoStop, SessionPlan

JobKind = Literal["teleop", "record", "replay", "deploy", "rest"]

COMMANDERS: Mapping[JobKind, str] = {
    "teleop": "teleop.teleop_node:build",
    "record": "teleop.teleop_node:build",
    "replay": "recorder.replay_node:build",
    "deploy": "policies.deploy_node:build",
    "rest": "teleop.rest_node:build",
}

NO_TASK = "free"
"""The emulated scene without objects, for a job that does no task."""

POLICY_START_S = 300.0
"""Loading weights to a GPU and compiling a network for it takes minutes at worst."""
REST_S = 10.0
"""Arms that rest have let go within a second, a servo that fails some times within three."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the rig."""

    kind: JobKind
    task: str = NO_TASK
    """A task of the rig; a ``rest`` has none."""
    episodes: int | None = 1
    """None: until the operator quits."""
    out: Path | None = None
    """Where episodes are recorded; None records nothing."""
    seed: int = 0
    first_episode: int = 0
    """Emulated scenes are placed by (seed, first_episode + index)."""
    operator_file: Path | None = None
    """A recorded hand motion for the emulated operator to play."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the commander: the episode to replay, the checkpoint to deploy. With
    ``remote_policy`` the policy's node is left to another machine, see ``policy_spec``."""
    cameras: tuple[str, ...] | None = None
    """Cameras to run; the task's own choice when None."""
    max_seconds: float | None = None
    tags: tuple[str, ...] = ()
    """Marks of the recorded episodes, to choose them by."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """The rig's calibration results, stored in each episode and compared with a policy's."""
    lease: str = "tandem"


def rig_for(rig: Rig, job: Job) -> Rig:
    """The part of the rig that the job uses.

    Replay and deployment run without leaders and inputs, and move the arms that were guided by
    hand. Cameras are those of the task; a rest has all arms, and neither cameras nor inputs.

    Raises:
        UnknownNameError: no such task or camera.
        RigError: the rig lacks what the job needs.
    """
    tasks, wanted = _task_and_cameras(rig, job)
    if not rig.acting:
        raise RigError(rig.name, ["arms: there is no follower, and none guided by hand"])
    if job.kind in ("teleop", "record") and not rig.limp_arms and not rig.inputs:
        raise RigError(rig.name, ["there is no leader arm and no input to teleoperate with"])
    parts: dict[str, Any] = {
        "cameras": {n: c for n, c in rig.cameras.items() if wanted is None or n in wanted},
        "tasks": tasks,
    }
    if job.kind in ("replay", "deploy"):
        alone = {"role": "follower", "leader": None, "input": None}
        parts["arms"] = {n: a.model_dump() | alone for n, a in rig.acting.items()}
        parts["inputs"] = {}
    elif job.kind == "rest":
        parts["arms"] = {n: a.model_dump() | {"input": None} for n, a in rig.arms.items()}
        parts["inputs"] = {}
    endpoints = rig.network.endpoints
    if endpoints:
        kept = {n: e for n, e in endpoints.items() if _survives(n, parts, rig)}
        parts["network"] = rig.network.model_dump() | {"endpoints": kept}
    return rig.replaced(**parts)


def _task_and_cameras(rig: Rig, job: Job) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """The job's task alone, and the cameras wanted, None for all."""
    if job.kind == "rest":
        return {}, ()
    if job.task not in rig.tasks:
        raise UnknownNameError("task", job.task, rig.tasks)
    task = rig.tasks[job.task]
    wanted = job.cameras if job.cameras is not None else task.cameras
    for camera in wanted or ():
        if camera not in rig.cameras:
            raise UnknownNameError("camera", camera, rig.cameras)
    # Other tasks may name cameras that are left out here.
    return {job.task: task.model_dump() | {"cameras": None}}, wanted


def _survives(topic: str, parts: Mapping[str, Any], rig: Rig) -> bool:
    kind, name = topic.split("/")[:2]
    devices = {
        "arm": parts.get("arms", rig.arms),
        "camera": parts["cameras"],
        "input": parts.get("inputs", rig.inputs),
    }
    return kind not in devices or name in devices[kind]


def specs_of(rig: Rig, job: Job, run_dir: Path | None = None) -> list[NodeSpec]:
    """All nodes of a job except the session, in the order of data flow.

    Args:
        rig: The part of the rig that the job uses.
        job: What to do.
        run_dir: Where emulated devices of the process runner are reached.
    """
    specs = []
    if rig.backend != "hardware":
        options = {
            "task": job.task,
            "seed": job.seed,
            "first_episode": job.first_episode,
            "operator_file": str(job.operator_file) if job.operator_file else None,
            "hands": job.kind in ("teleop", "record"),
            "runtime_dir": str(run_dir),
        }
        specs.append(NodeSpec("emulator", "drivers.emulated.emulator_node:build", "world", options))
    arm = "drivers.arm.node:build"
    specs += [NodeSpec(name, "drivers.camera.node:build", "input") for name in sorted(rig.cameras)]
    specs += [NodeSpec(node, "drivers.input_node:build", "input") for node in nodes_of(rig.inputs)]
    moved_first = sorted(set(rig.arms) - set(rig.followers))
    specs += [NodeSpec(name, arm, "arm") for name in moved_first]
    options = commander_options(job)
    if job.kind == "deploy" and not has_remote_policy(job):
        specs.append(policy_spec(job))
    specs.append(NodeSpec("commander", COMMANDERS[job.kind], "input", options))
    specs += [NodeSpec(name, arm, "arm") for name in sorted(rig.followers)]
    if job.out is not None:
        recording = {
            "out": str(job.out),
            "task": job.task,
            "job": job.kind,
            "seed": job.seed,
            "first_episode": job.first_episode,
            "max_seconds": job.max_seconds,
            "tags": list(job.tags),
            "calibration": dict(job.calibration),
        }
        specs.append(NodeSpec("recorder", "recorder.recorder_node:build", "recorder", recording))
    return specs


def commander_options(job: Job) -> dict[str, Any]:
    """What the commander, and a policy's node beside it, are told of the job."""
    told = {"calibration": dict(job.calibration)} if job.kind == "deploy" else {}
    return {"lease": job.lease, "task": job.task, **told, **job.options}


def has_remote_policy(job: Job) -> bool:
    """Whether the policy's node runs on another machine."""
    return bool(job.options.get("remote_policy", False))


def policy_spec(job: Job) -> NodeSpec:
    """The node that runs a deployment's policy, here or alone on another machine."""
    factory = "policies.policy_node:build"
    # Other noise in every scene, the same each time: a policy that samples acts reproducibly.
    noise = {"noise_seed": 1_000_000 * job.seed + 1000 * job.first_episode}
    return NodeSpec("policy", factory, "input", noise | commander_options(job), POLICY_START_S)


def session_plan_of(rig: Rig, job: Job, specs: list[NodeSpec], attended: bool) -> SessionPlan:
    """How the session runs the job.

    Args:
        attended: A person is at the keyboard of a real rig. Otherwise (emulation) episodes
            begin and end by themselves.
    """
    stop_when: set[AutoStop] = set()
    if job.kind in ("replay", "rest"):
        stop_when.add("commander")
    elif not attended:
        stop_when.add("operator" if job.kind in ("teleop", "record") else "success")
    start: Literal["gripper", "key", "auto"] = "auto"
    if job.kind in ("teleop", "record"):
        by_hand = rig.operator.start if rig.leaders else "key"
        start = by_hand if rig.leaders or attended else "auto"
    elif attended and job.kind != "rest":
        start = "key"
    longest_s = REST_S if job.kind == "rest" else rig.tasks[job.task].max_seconds
    return SessionPlan(
        task=job.task,
        episodes=job.episodes,
        record=job.out is not None,
        max_seconds=job.max_seconds or longest_s,
        start=start,
        stop_when=frozenset(stop_when),
        must_live=[spec.name for spec in specs],
    )
