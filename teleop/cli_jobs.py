"""What commands that run a job do alike: from options to a job, its run, and what is printed."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teleop.errors import TandemError

if TYPE_CHECKING:
    from teleop.assembly import Job
    from teleop.rig import Rig
    from teleop.session import SessionNode
    from teleop.session_plan import EpisodeResult


def run_job(
    args: argparse.Namespace,
    rig: Rig,
    kind: Any,
    options: dict[str, Any] | None = None,
    operator_file: Path | None = None,
    first_episode: int = 0,
) -> int:
    """Run a job that the options describe; returns the exit code.

    Raises:
        TandemError: there is no such operator file, no emulated leader arm to play it on, or a
            file where the episodes are to go.
    """
    if operator_file is not None and not rig.leaders:
        raise TandemError(
            f"--operator {operator_file} plays on a leader arm, and {args.hardware} has none; "
            "leave it out, or choose another --hardware"
        )
    if operator_file is not None and not operator_file.is_file():
        raise TandemError(f"--operator {operator_file}: no such file; correct the path")
    if operator_file is not None and not (args.emulate or args.lockstep):
        raise TandemError(
            "--operator plays on an emulated leader; leave it out, or give --emulate or --lockstep"
        )
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise TandemError(f"--out {args.out} is a file; name a folder")
    rig, calibration = calibrated(rig, args.hardware, args.emulate or args.lockstep)
    job = job_of(args, kind, options, operator_file, first_episode)
    job = replace(job, calibration=calibration)
    return summary_of(perform(args, rig, job, lambda result: report_on(result, kind)), job)


def perform(
    args: argparse.Namespace, rig: Rig, job: Job, report: Callable[[EpisodeResult], None]
) -> list[EpisodeResult]:
    """Run a job on the runner that the options ask for."""
    from teleop import runs
    from teleop.assembly import rig_for
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
    used = rig_for(rig, job)
    if any(config.driver == "webxr" for config in used.inputs.values()):
        _tell_headset(used, args.emulate)
    with Console(rig.operator) as console:
        results = runs.run_processes(rig, job, console, args.emulate, tell_latencies)
    for result in results:
        report(result)
    return results


def _tell_headset(rig: Rig, emulate: bool) -> None:
    """What the operator of a headset needs to know before the run."""
    if not emulate:
        page = importlib.import_module("drivers.webxr.credentials")
        code = page.obtain(rig.webxr).code
        print(f"open in the headset: {page.page_address(rig.webxr)}, pairing code {code}")
    if rig.webxr.view is not None and rig.webxr.view not in rig.cameras:
        print(
            f"warning: no picture in the headset: webxr.view is {rig.webxr.view}, which this job "
            "does not run; add it to the task's cameras or to --cameras",
            file=sys.stderr,
        )


def tell_latencies(session: SessionNode) -> None:
    """Where the time went between observation and command, when a policy acted."""
    heard = [session.heard(name) for name in ("policy", "commander")]
    values = {name: value for health in heard if health for name, value in health.values.items()}
    table: str = importlib.import_module("policies.latency").table(values)
    if table:
        print(table)


def job_of(
    args: argparse.Namespace,
    kind: Any,
    options: dict[str, Any] | None = None,
    operator_file: Path | None = None,
    first_episode: int = 0,
) -> Job:
    """The job that the options describe."""
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
        tags=tuple(args.tag or ()),
    )


def calibrated(rig: Rig, hardware: Path, emulated: bool) -> tuple[Rig, dict[str, Any]]:
    """The rig with its calibration applied, and all results, for the episodes.

    Raises:
        RigError: a result does not belong to this rig, or is damaged.
    """
    files, rules = (importlib.import_module(f"calibration.{name}") for name in ("results", "rules"))
    if emulated:
        rig = rig.replaced(backend="emulated")
    results = files.load_results(files.folder_of(hardware, rig.backend))
    found = importlib.import_module("drivers.identity").identities_found(rig)

    def warn(words: str) -> None:
        print(f"warning: {words}", file=sys.stderr)

    return rules.enforced(rig, results, str(hardware), found, warn), results.snapshot()


def rig_of(args: argparse.Namespace) -> Rig:
    """The rig file that the options name."""
    from teleop.rig_files import load_rig

    return load_rig(args.hardware)


def report_on(result: EpisodeResult, kind: str) -> None:
    """Print what became of an episode."""
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


def summary_of(results: list[EpisodeResult], job: Job) -> int:
    """Print what came of a job; returns the exit code."""
    successes = sum(result.outcome == "success" for result in results)
    print(f"{len(results)} episode(s), {successes} with success")
    short = job.episodes is not None and len(results) < job.episodes
    return 1 if short or any(result.verdict == "fail" for result in results) else 0
