"""The ``tandem`` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from teleop import cli_options as flags
from teleop.cli_jobs import calibrated, perform, report_on, rig_of, run_job
from teleop.errors import EpisodeError, MissingExtraError, TandemError

STUDIES = {
    "fork": "two ways round an obstacle: which heads keep them apart (E1)",
    "drift": "how errors grow with the horizon (E2)",
    "insertion": "all families on the insertion task, from state (E3)",
    "images": "image policies on a GPU, transfer and insertion (E7)",
}
"""Modules of ``policies.studies``; the letters are those of docs/learning.md."""

OWN_OPTIONS = ("train", "study")
"""Commands that read their options themselves, typed by dataclasses."""

EXTRAS = {
    **dict.fromkeys(("accelerate", "diffusers", "kornia", "monai", "safetensors"), "train"),
    **dict.fromkeys(("tensorboard", "torch", "tqdm", "tyro"), "train"),
    **dict.fromkeys(("mink", "mujoco", "qpsolvers"), "ik"),
    **dict.fromkeys(("franky", "panda_py"), "franka"),
    **dict.fromkeys(("pyspacemouse", "easyhid"), "spacemouse"),
    **dict.fromkeys(("aiohttp", "cryptography"), "webxr"),
    "openvr": "vr",
    "roslibpy": "rosbridge",
    "matplotlib": "plot",
}
"""Packages that the core does not bring, and the extra of ``pyproject.toml`` that does."""

PACKAGES = ("teleop", "drivers", "recorder", "policies", "calibration")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors are one sentence and exit code 1, or 2 for a wrong call."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args, rest = _parser().parse_known_args(arguments)
    if rest and args.command not in OWN_OPTIONS:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("h5py").setLevel(logging.WARNING)  # else it tells each type it can convert
    try:
        with _ends_as_by_ctrl_c():
            _check_packages()
            code: int = args.run(args, rest)
    except TandemError as error:
        if args.debug:
            raise
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if args.debug or package not in EXTRAS:
            raise
        missing = MissingExtraError(package, EXTRAS[package], f"tandem {args.command}")
        print(f"tandem: {missing}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130  # before a run has taken Ctrl-C over
    return code


@contextlib.contextmanager
def _ends_as_by_ctrl_c() -> Iterator[None]:
    """A closed terminal or a kill lets go of the devices in order, as Ctrl-C does."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {s: signal.signal(s, signal.default_int_handler) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem",
        allow_abbrev=False,
        description="Teleoperate, record, replay, learn and deploy on a robot rig, "
        "real or emulated.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, text, add_options in _COMMANDS:
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            add_help=name not in OWN_OPTIONS,
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        command.add_argument("--debug", action="store_true", help="show tracebacks and logs")
        add_options(command)
    return parser


# -- commands -------------------------------------------------------------------------------


def _run_teleop(args: argparse.Namespace, rest: list[str]) -> int:
    return run_job(args, rig_of(args), "teleop", operator_file=args.operator)


def _run_record(args: argparse.Namespace, rest: list[str]) -> int:
    if args.out is None:
        raise TandemError("tandem record needs --out DIR: where the episodes go")
    if args.jobs is not None:
        return _record_scenes(args)
    return run_job(args, rig_of(args), "record", operator_file=args.operator)


def _record_scenes(args: argparse.Namespace) -> int:
    """Every scene on a rig of its own, spread over processes."""
    if not args.lockstep or args.operator or args.seconds:
        raise TandemError("--jobs is for --lockstep, without --operator and --seconds")
    evaluation = importlib.import_module("policies.evaluate")
    rig, calibration = calibrated(rig_of(args), args.hardware, emulated=True)
    done = evaluation.record(
        rig,
        args.task,
        args.episodes or 1,
        args.seed,
        args.out.resolve(),
        args.jobs,
        show=sys.stderr.isatty(),
        tags=tuple(args.tag or ()),
        cameras=args.cameras,
        calibration=calibration,
    )
    for rollout in done:
        report_on(rollout.result, "record")
    print(f"{len(done)} episode(s) recorded, {(args.episodes or 1) - len(done)} were there already")
    return 1 if any(rollout.result.verdict == "fail" for rollout in done) else 0


def _run_replay(args: argparse.Namespace, rest: list[str]) -> int:
    episode_type = importlib.import_module("recorder.episode").Episode
    with episode_type(args.episode) as episode:
        args.task = args.task or episode.task
        scene = episode.scene
    if args.seconds is None:
        args.seconds = 3600.0  # as long as the episode lasts
    if scene is not None:
        args.seed, first = scene
    else:
        first = 0
    options = {"episode": str(args.episode.resolve()), "speed": args.speed}
    return run_job(args, rig_of(args), "replay", options=options, first_episode=first)


def _run_deploy(args: argparse.Namespace, rest: list[str]) -> int:
    if args.remote_policy and args.lockstep:
        raise TandemError("--remote-policy needs real time: another machine plans; drop --lockstep")
    card = _card_of(args)
    evaluation = importlib.import_module("policies.evaluate")
    rig = rig_of(args)
    for text in evaluation.differences(card, rig, args.task, args.emulate or args.lockstep):
        print(f"warning: {text}", file=sys.stderr)
    options = {**_policy_options(args), "remote_policy": args.remote_policy}
    options["checkpoint"] = str(args.policy.resolve())
    return run_job(args, rig, "deploy", options=options)


def _run_policy(args: argparse.Namespace, rest: list[str]) -> int:
    from teleop.assembly import Job
    from teleop.remote_policy import run_policy

    options = {"checkpoint": str(args.policy.resolve()), **_policy_options(args)}
    _card_of(args)
    job = Job("deploy", args.task, options=options, cameras=args.cameras)
    health = run_policy(rig_of(args), job, args.emulate, print)
    print(importlib.import_module("policies.latency").table(health.values))
    return 0


def _card_of(args: argparse.Namespace) -> Any:
    """The policy's card; the task and the cameras are what it needs, beside what was asked for."""
    card = importlib.import_module("policies.card").read_card(args.policy)
    tasks = card.contract.tasks
    if args.task is None and len(tasks) > 1:
        raise TandemError(f"{args.policy} knows {' and '.join(tasks)}; choose one with --task")
    args.task = args.task or tasks[0]
    if args.cameras is not None:
        needed = {view.name for view in card.contract.cameras}
        args.cameras = tuple(sorted(needed.union(args.cameras)))
    return card


def _policy_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of a policy's nodes that were given."""
    known = importlib.import_module("policies.evaluate").OPTIONS
    given = {name: getattr(args, name, None) for name in known}
    return {name: value for name, value in given.items() if value is not None}


def _run_study(args: argparse.Namespace, rest: list[str]) -> int:
    if not rest or rest[0] not in STUDIES:
        lines = [f"  {name:<10} {text}" for name, text in STUDIES.items()]
        print("\n".join(["usage: tandem study NAME [--help]", *lines]))
        return 0 if rest[:1] in ([], ["-h"], ["--help"]) else 2
    code: int = importlib.import_module(f"policies.studies.{rest[0]}").main(rest[1:])
    return code


def _run_rest(args: argparse.Namespace, rest: list[str]) -> int:
    from teleop.assembly import Job

    rig, _ = calibrated(rig_of(args), args.hardware, args.emulate or args.lockstep)
    results = perform(args, rig, Job(kind="rest"), lambda result: None)
    if not results:
        raise TandemError("ended before the arms were at rest; arms that were held hold on")
    if results[0].commander_state != "finished":
        raise TandemError(f"not all arms are at rest: {results[0].commander}")
    print(f"all arms are at rest, {results[0].commander}")
    return 0


def _run_evaluate(args: argparse.Namespace, rest: list[str]) -> int:
    if args.video is not None and not (args.cameras and args.out):
        raise TandemError("--video needs --cameras NAME (who films) and --out DIR (rollouts)")
    for written in (args.table, args.video):
        if written is not None and not written.parent.is_dir():
            raise TandemError(f"{written}: there is no folder {written.parent}; make it first")
    codecs = importlib.import_module("policies.video").CODECS
    if args.video is not None and args.video.suffix not in codecs:
        raise TandemError(f"--video {args.video}: name a file of {' or '.join(codecs)}")
    evaluation = importlib.import_module("policies.evaluate")
    rig, calibration = calibrated(rig_of(args), args.hardware, emulated=True)
    scores: list[Any] = []
    try:
        for score in evaluation.run(
            args.runs,
            rig,
            args.task,
            args.episodes or 20,
            args.seed,
            args.jobs,
            args.out.resolve() if args.out else None,
            args.cameras or (),
            _policy_options(args),
            show=sys.stderr.isatty(),
            calibration=calibration,
        ):
            scores.append(score)
    finally:  # what is known is told, whatever became of the others
        if scores:
            _tell_scores(scores, args.table)
    if args.video is not None:
        shown = next((s for s in scores if s.subject != evaluation.EXPERT), scores[0])
        evaluation.write_video_of(shown, args.cameras[-1], args.video)
        print(f"video of {shown.subject}: {args.video}")
    return 0


def _tell_scores(scores: list[Any], table: Path | None) -> None:
    report: str = importlib.import_module("policies.comparison").report(scores)
    print(report, flush=True)
    if table is not None:
        table.write_text(report + "\n")


def _run_calibrate(args: argparse.Namespace, rest: list[str]) -> int:
    board_type = importlib.import_module("calibration.board").Board
    board = board_type(args.columns, args.rows, args.square_mm / 1e3)
    if args.kind == "board":
        board.write(Path(args.name))
        print(f"{args.name}: print it at 100 % and measure a square")
        return 0
    calibrate = importlib.import_module("drivers.calibrate.procedure")
    guide = importlib.import_module("drivers.calibrate.guide").TerminalGuide(sys.stdin, sys.stdout)
    given = ["name", "hardware", "emulate", "arm", "reference", "apply", "by_hand", "beside"]
    given += ["touch", "joint", "picture"]
    options = calibrate.CalibrateOptions(
        kind=args.kind.replace("-", "_"),
        cameras=args.cameras or (),
        board=board,
        **{name: getattr(args, name) for name in given},
    )
    calibrate.run(options, guide)
    return 0


def _run_recover(args: argparse.Namespace, rest: list[str]) -> int:
    lines: list[str] = importlib.import_module("recorder.recover").recover(args.folder)
    print("\n".join(lines) if lines else f"{args.folder}: nothing to recover")
    return 0


def _run_inspect(args: argparse.Namespace, rest: list[str]) -> int:
    if args.validate:
        return _validate(args.episode)
    inspect = importlib.import_module("recorder.inspect")
    print(inspect.summary(args.episode))
    if not args.no_picture and not args.episode.is_dir():
        picture = args.picture or args.episode.with_suffix(".png")
        inspect.write_picture(args.episode, picture)
        print(f"picture: {picture}")
    return 0


def _validate(path: Path) -> int:
    """List the faults of an episode, or of each in a folder; returns the exit code."""
    validate = importlib.import_module("recorder.validate").validate
    paths = [path]
    if path.is_dir() and path.suffix != importlib.import_module("recorder.schema").PARTIAL_SUFFIX:
        paths = importlib.import_module("recorder.episode").find_episodes(path)
        if not paths:
            raise EpisodeError(f"{path}: holds no episode")
    sound = True
    for episode in paths:
        faults: list[str] = validate(episode)
        for fault in faults or ["no fault found"]:
            print(f"{episode}: {fault.removeprefix(f'{episode}: ')}", flush=True)
        sound = sound and not faults
    return 0 if sound else 1


def _run_train(args: argparse.Namespace, rest: list[str]) -> int:
    code: int = importlib.import_module("policies.train").main(rest)
    return code


def _run_doctor(args: argparse.Namespace, rest: list[str]) -> int:
    if args.udev or args.install_udev:
        udev = importlib.import_module("drivers.doctor.udev")
        print(udev.run(args.hardware, args.install_udev))
        return 0
    examine = importlib.import_module("drivers.doctor.examine").examine
    if args.emulate:
        print("EMULATED RIG: no hardware is used", file=sys.stderr)
    checks = []
    with contextlib.closing(examine(args.hardware, args.emulate, args.out)) as found:
        for check in found:
            checks.append(check)
            if not args.json:
                print(check, flush=True)
    counts = {s: sum(check.status == s for check in checks) for s in ("ok", "warn", "fail")}
    if args.json:
        print(json.dumps({**counts, "checks": [dataclasses.asdict(c) for c in checks]}, indent=2))
    else:
        print("{ok} ok, {warn} to look at, {fail} to mend".format(**counts))
    return 1 if counts["fail"] else 0


def _check_packages() -> None:
    """``teleop`` is also a module of another distribution: all five must be ours."""
    homes = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise TandemError(f"package {package!r} is not installed; run: pip install tandem-rig")
        homes[package] = Path(spec.origin).parents[1]
    if len(set(homes.values())) > 1:
        where = ", ".join(f"{package} in {home}" for package, home in homes.items())
        raise TandemError(
            f"packages of different projects are mixed: {where}; "
            "use a virtual environment with only tandem-rig in it"
        )


_COMMANDS = (
    ("doctor", _run_doctor, "check the rig and say what to mend", flags.doctor_options),
    ("calibrate", _run_calibrate, "measure what the rig file cannot know", flags.calibrate_options),
    ("teleop", _run_teleop, "move the arms by hand or input device", flags.hand_options),
    ("record", _run_record, "teleoperate and record episodes", flags.record_options),
    ("recover", _run_recover, "finish episodes of a killed recorder", flags.recover_options),
    ("inspect", _run_inspect, "summarise, draw or validate an episode", flags.inspect_options),
    ("replay", _run_replay, "send a recorded episode to the followers", flags.replay_options),
    ("rest", _run_rest, "put the arms to their sleep pose, torque off", flags.run_options),
    ("train", _run_train, "train a policy on recorded episodes", flags.hand_over),
    ("evaluate", _run_evaluate, "success rates on the emulated rig", flags.evaluate_options),
    ("deploy", _run_deploy, "let a policy drive the followers", flags.deploy_options),
    ("policy", _run_policy, "run a policy for a rig of another machine", flags.policy_options),
    ("study", _run_study, "repeat a measured comparison of policies", flags.hand_over),
)


if __name__ == "__main__":
    sys.exit(main())
