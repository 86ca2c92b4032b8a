"""The ``tandem`` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teleop.errors import TandemError

if TYPE_CHECKING:
    from teleop.assembly import Job
    from teleop.rig import Rig
    from teleop.session_plan import EpisodeResult

PACKAGES = ("teleop", "drivers", "recorder", "policies", "calibration")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors are one sentence and exit code 1, or 2 for a wrong call."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args, rest = _parser().parse_known_args(arguments)
    if rest and args.command != "train":
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        _check_packages()
        code: int = args.run(args, rest)
    except TandemError as error:
        if args.debug:
            raise
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130  # before a run has taken Ctrl-C over
    return code


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
            add_help=name != "train",
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        command.add_argument("--debug", action="store_true", help="show tracebacks and logs")
        add_options(command)
    return parser


# -- options shared by commands -------------------------------------------------------------


def _rig_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--hardware", type=Path, default=Path("hardware.yaml"), help="rig file (%(default)s)"
    )
    command.add_argument(
        "--emulate", action="store_true", help="run the rig's emulation, no robot needed"
    )


def _run_options(command: argparse.ArgumentParser) -> None:
    _rig_options(command)
    command.add_argument(
        "--lockstep", action="store_true", help="emulate in virtual time; no need for --emulate"
    )


def _job_options(command: argparse.ArgumentParser) -> None:
    _run_options(command)
    command.add_argument("--task", default="transfer_cube", help="task name (%(default)s)")
    command.add_argument("--episodes", type=_count, help="how many episodes")
    command.add_argument("--out", type=Path, help="folder to record episodes into")
    command.add_argument("--seed", type=int, default=0, help="places the emulated scene")
    command.add_argument(
        "--cameras", type=lambda s: tuple(s.split(",")), help="comma-separated, default: the task's"
    )
    command.add_argument("--seconds", type=_positive, help="longest episode, default: the task's")


def _hand_options(command: argparse.ArgumentParser) -> None:
    _job_options(command)
    command.add_argument(
        "--operator", type=Path, help="recorded hand motion (CSV) for the emulated operator"
    )


def _replay_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("episode", type=Path, help="episode file")
    _job_options(command)
    command.set_defaults(task=None)
    command.add_argument("--speed", type=_positive, default=1.0, help="time factor (%(default)s)")


def _deploy_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("policy", type=Path, help="run folder of tandem train")
    _job_options(command)


def _evaluate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", help="run folders, or: expert")
    _job_options(command)
    command.add_argument(
        "--video", type=Path, help="film the first policy (.mp4) by the last of --cameras"
    )
    command.set_defaults(seed=1000)


def _recover_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="folder with .partial episodes")


def _inspect_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("episode", type=Path, help="episode file or folder of episodes")
    command.add_argument("--picture", type=Path, help="picture file (default: beside the episode)")
    command.add_argument("--no-picture", action="store_true", help="print the summary only")
    command.add_argument("--validate", action="store_true", help="list every fault of the file")


def _doctor_options(command: argparse.ArgumentParser) -> None:
    _rig_options(command)
    command.add_argument(
        "--out", type=Path, default=Path(), help="folder whose disk is tried (default: this one)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON document at the end")


def _train_options(command: argparse.ArgumentParser) -> None:
    """The trainer has its own typed options; see ``tandem train FAMILY --help``."""


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


# -- commands -------------------------------------------------------------------------------


def _run_teleop(args: argparse.Namespace, rest: list[str]) -> int:
    return _run_job(args, "teleop", operator_file=args.operator)


def _run_record(args: argparse.Namespace, rest: list[str]) -> int:
    if args.out is None:
        raise TandemError("tandem record needs --out DIR: where the episodes go")
    return _run_job(args, "record", operator_file=args.operator)


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
    return _run_job(args, "replay", options=options, first_episode=first)


def _run_deploy(args: argparse.Namespace, rest: list[str]) -> int:
    return _run_job(args, "deploy", options={"checkpoint": str(args.policy.resolve())})


def _run_rest(args: argparse.Namespace, rest: list[str]) -> int:
    from teleop.assembly import Job

    results = _perform(args, _load_rig(args), Job(kind="rest"), lambda result: None)
    if not results:
        raise TandemError("ended before the arms were at rest; arms that were held hold on")
    if results[0].commander_state != "finished":
        raise TandemError(f"not all arms are at rest: {results[0].commander}")
    print(f"all arms are at rest, {results[0].commander}")
    return 0


def _run_evaluate(args: argparse.Namespace, rest: list[str]) -> int:
    from teleop.runs import run_lockstep

    evaluation = importlib.import_module("policies.evaluate")
    rig = _load_rig(args)
    if args.video is not None and not (args.cameras and args.out):
        raise TandemError("--video needs --cameras NAME (who films) and --out DIR (rollouts)")
    scores = [
        evaluation.evaluate(
            subject,
            lambda job: run_lockstep(rig, job, lambda r: _report(r, job.kind)).results,
            args.task,
            args.episodes or 20,
            args.seed,
            args.out.resolve() / Path(subject).name if args.out else None,
            args.cameras,
        )
        for subject in args.runs
    ]
    print(evaluation.table(scores))
    if args.video is not None:
        shown = next((s for s in scores if s.subject != evaluation.EXPERT), scores[0])
        evaluation.write_video_of(shown, args.cameras[-1], args.video)
        print(f"video of {shown.subject}: {args.video}")
    return 0


def _run_recover(args: argparse.Namespace, rest: list[str]) -> int:
    lines: list[str] = importlib.import_module("recorder.recover").recover(args.folder)
    print("\n".join(lines) if lines else f"{args.folder}: nothing to recover")
    return 0


def _run_inspect(args: argparse.Namespace, rest: list[str]) -> int:
    if args.validate:
        validate = importlib.import_module("recorder.validate").validate
        faults: list[str] = validate(args.episode)
        print("\n".join(faults) if faults else f"{args.episode}: no fault found")
        return 1 if faults else 0
    inspect = importlib.import_module("recorder.inspect")
    print(inspect.summary(args.episode))
    if not args.no_picture and not args.episode.is_dir():
        picture = args.picture or args.episode.with_suffix(".png")
        inspect.write_picture(args.episode, picture)
        print(f"picture: {picture}")
    return 0


def _run_train(args: argparse.Namespace, rest: list[str]) -> int:
    code: int = importlib.import_module("policies.train").main(rest)
    return code


def _run_doctor(args: argparse.Namespace, rest: list[str]) -> int:
    examine = importlib.import_module("drivers.doctor").examine
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


def _run_job(
    args: argparse.Namespace,
    kind: Any,
    options: dict[str, Any] | None = None,
    operator_file: Path | None = None,
    first_episode: int = 0,
) -> int:
    rig = _load_rig(args)
    job = _job(args, rig, kind, options, operator_file, first_episode)
    return _summary(_perform(args, rig, job, lambda result: _report(result, kind)), job)


def _perform(
    args: argparse.Namespace, rig: Rig, job: Job, report: Callable[[EpisodeResult], None]
) -> list[EpisodeResult]:
    """Run a job on the runner that the options ask for."""
    from teleop import runs
    from teleop.console import Console

    if args.lockstep:
        print("LOCKSTEP EMULATION: no hardware is used, virtual time", file=sys.stderr)
        run = runs.run_lockstep(
            rig, job, report, lambda text: print(f"emulator: {text}", file=sys.stderr)
        )
        print(f"{run.rig_s:.0f} s of rig time, {run.speed:.1f} times real time")
        return run.results
    if args.emulate:
        print("EMULATED RIG: no hardware is used", file=sys.stderr)
    with Console(rig.operator) as console:
        results = runs.run_processes(rig, job, console, args.emulate)
    for result in results:
        report(result)
    return results


def _job(
    args: argparse.Namespace,
    rig: Rig,
    kind: Any,
    options: dict[str, Any] | None = None,
    operator_file: Path | None = None,
    first_episode: int = 0,
) -> Job:
    from teleop.assembly import Job

    unattended = args.emulate or args.lockstep or kind in ("replay", "deploy")
    return Job(
        kind=kind,
        task=args.task,
        episodes=args.episodes if args.episodes or not unattended else 1,
        out=args.out.resolve() if args.out else None,
        seed=args.seed,
        first_episode=first_episode,
        operator_file=operator_file.resolve() if operator_file else None,
        options=options or {},
        cameras=args.cameras,
        max_seconds=args.seconds,
    )


def _load_rig(args: argparse.Namespace) -> Rig:
    from teleop.rig_files import load_rig

    return load_rig(args.hardware)


def _report(result: EpisodeResult, kind: str) -> None:
    parts = [f"episode {result.index}: {result.outcome}, {result.seconds:.1f} s"]
    if result.max_stage:
        parts.append(f"stage {result.stage} of {result.max_stage}")
    if result.path:
        parts.append(f"verdict {result.verdict}, saved {result.path}")
        parts.append(f"{result.saved_after_s:.1f} s after its end")
    if kind == "replay" and result.commander:
        parts.append(result.commander)
    print(", ".join(parts), flush=True)
    for reason in result.reasons:
        print(f"  {reason}")


def _summary(results: list[EpisodeResult], job: Job) -> int:
    successes = sum(result.outcome == "success" for result in results)
    print(f"{len(results)} episode(s), {successes} with success")
    short = job.episodes is not None and len(results) < job.episodes
    return 1 if short or any(result.verdict == "fail" for result in results) else 0


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
    ("doctor", _run_doctor, "check the rig and say what to mend", _doctor_options),
    ("teleop", _run_teleop, "move the followers with the leaders", _hand_options),
    ("record", _run_record, "teleoperate and record episodes", _hand_options),
    ("recover", _run_recover, "finish episodes of a killed recorder", _recover_options),
    ("inspect", _run_inspect, "summarise, draw or validate an episode", _inspect_options),
    ("replay", _run_replay, "send a recorded episode to the followers", _replay_options),
    ("rest", _run_rest, "put the arms to their sleep pose, torque off", _run_options),
    ("train", _run_train, "train a policy on recorded episodes", _train_options),
    ("evaluate", _run_evaluate, "success rates on the emulated rig", _evaluate_options),
    ("deploy", _run_deploy, "let a policy drive the followers", _deploy_options),
)


if __name__ == "__main__":
    sys.exit(main())
