"""Options of the ``tandem`` commands."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def hand_over(command: argparse.ArgumentParser) -> None:
    """No options here: the command reads the rest of the line itself."""


def rig_options(command: argparse.ArgumentParser) -> None:
    """Which rig."""
    _hardware(command)
    command.add_argument(
        "--emulate", action="store_true", help="run the rig's emulation, no robot needed"
    )


def _hardware(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--hardware", type=Path, default=Path("hardware.yaml"), help="rig file (%(default)s)"
    )


def run_options(command: argparse.ArgumentParser) -> None:
    """Which rig, and how it runs."""
    rig_options(command)
    command.add_argument(
        "--lockstep", action="store_true", help="emulate in virtual time; no need for --emulate"
    )


def scene_options(command: argparse.ArgumentParser, task: str | None = "transfer_cube") -> None:
    """What is to be done, how often, and where it is recorded."""
    command.add_argument("--task", default=task, help=f"task name, default: {task or 'its own'}")
    command.add_argument("--episodes", type=_count, help="how many episodes")
    command.add_argument("--out", type=Path, help="folder to record episodes into")
    command.add_argument("--seed", type=_seed, default=0, help="places the emulated scene")
    command.add_argument("--cameras", type=_names, help="comma-separated, default: the task's")


def job_options(command: argparse.ArgumentParser, task: str | None = "transfer_cube") -> None:
    """A job on the rig."""
    run_options(command)
    scene_options(command, task)
    command.add_argument(
        "--tag", action="append", help="mark the recorded episodes; can be given several times"
    )
    command.add_argument("--seconds", type=_positive, help="longest episode, default: the task's")


def hand_options(command: argparse.ArgumentParser) -> None:
    """A job with the operator's hands on the leaders."""
    job_options(command)
    command.add_argument(
        "--operator", type=Path, help="recorded hand motion (CSV) for the emulated operator"
    )


def calibrate_options(command: argparse.ArgumentParser) -> None:
    """``tandem calibrate``; names are those of ``drivers.calibrate.procedure.CalibrateOptions``."""
    kinds = ("arm", "gripper", "camera", "hand-eye", "vr", "latency", "board")
    command.add_argument("kind", choices=kinds, help="what to measure, or the board to print")
    command.add_argument("name", help="arm, camera or input; board: the picture file (.svg, .png)")
    rig_options(command)
    command.add_argument("--arm", help="hand-eye, vr: the arm that moves")
    command.add_argument("--reference", help="arm: the one to compare with, default: its leader")
    command.add_argument("--apply", action="store_true", help="arm: take the offsets over")
    command.add_argument(
        "--by-hand", action="store_true", help="gripper, hand-eye: move it yourself"
    )
    command.add_argument("--beside", action="store_true", help="hand-eye: camera beside the arm")
    command.add_argument("--touch", action="store_true", help="vr: hold the device to the tool")
    command.add_argument("--cameras", type=_names, help="latency: those that watch the arm")
    command.add_argument("--joint", help="latency: what swings, default: waist, else the first")
    command.add_argument("--picture", type=Path, help="camera: where the coverage is drawn")
    board = command.add_argument_group("ChArUco board")
    board.add_argument("--columns", type=_count, default=10, help="squares (%(default)s)")
    board.add_argument("--rows", type=_count, default=7, help="squares (%(default)s)")
    board.add_argument("--square-mm", type=_positive, default=25.0, help="(%(default)s)")


def record_options(command: argparse.ArgumentParser) -> None:
    """``tandem record``."""
    hand_options(command)
    command.add_argument(
        "--jobs", type=_count, help="with --lockstep: scenes side by side in so many processes"
    )


def replay_options(command: argparse.ArgumentParser) -> None:
    """``tandem replay``."""
    command.add_argument("episode", type=Path, help="episode file")
    job_options(command, task=None)
    command.add_argument("--speed", type=_positive, default=1.0, help="time factor (%(default)s)")


def deploy_options(command: argparse.ArgumentParser) -> None:
    """``tandem deploy``."""
    command.add_argument("policy", type=Path, help="run folder of tandem train")
    job_options(command, task=None)
    play_options(command)
    inference_options(command)
    command.add_argument(
        "--remote-policy", action="store_true", help="another machine runs: tandem policy"
    )
    _allow_start(command)


def policy_options(command: argparse.ArgumentParser) -> None:
    """``tandem policy``."""
    command.add_argument("policy", type=Path, help="run folder of tandem train")
    rig_options(command)
    command.add_argument("--task", help="as for tandem deploy on the rig, default: its own")
    command.add_argument("--cameras", type=_names, help="as for tandem deploy on the rig")
    inference_options(command)


def evaluate_options(command: argparse.ArgumentParser) -> None:
    """``tandem evaluate``."""
    command.add_argument("runs", nargs="+", help="run folders, or: expert")
    _hardware(command)
    scene_options(command)
    play_options(command)
    inference_options(command)
    _allow_start(command)
    command.add_argument(
        "--video", type=Path, help="film the first policy (.mp4) by the last of --cameras"
    )
    command.add_argument("--jobs", type=_count, help="processes, default: one per core")
    command.add_argument("--table", type=Path, help="write the tables there too (Markdown)")
    command.set_defaults(seed=1000)


def play_options(command: argparse.ArgumentParser) -> None:
    """How action chunks are played; names are those of ``policies.deployment``."""
    group = command.add_argument_group("action chunks (default: as the policy was trained)")
    group.add_argument("--chunk-mode", choices=("ensemble", "newest"))
    group.add_argument(
        "--decay-per-row", type=float, help="ensemble weights: above 0 favours the oldest plan"
    )
    group.add_argument("--execute-rows", type=_count, help="rows of a chunk that may be played")
    group.add_argument("--blend-s", type=float, help="shortest time over which a seam fades")


def inference_options(command: argparse.ArgumentParser) -> None:
    """How chunks are made; names are those of ``policies.deployment``."""
    group = command.add_argument_group("inference (default: as the policy was trained)")
    group.add_argument("--replan-rows", type=_count, help="rows between inferences")
    group.add_argument("--noise", choices=("episode", "fresh"), help="of families that sample")
    group.add_argument("--infer-precision", choices=("float32", "bf16"))
    group.add_argument("--device", help="where the network runs: cpu (default) or cuda")
    group.add_argument("--loader", help="module:function that makes a policy not of tandem train")


def _allow_start(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-start", action="store_true", help="start from a pose unlike those of the data"
    )


def recover_options(command: argparse.ArgumentParser) -> None:
    """``tandem recover``."""
    command.add_argument("folder", type=Path, help="folder with .partial episodes")


def inspect_options(command: argparse.ArgumentParser) -> None:
    """``tandem inspect``."""
    command.add_argument("episode", type=Path, help="episode file or folder of episodes")
    command.add_argument("--picture", type=Path, help="picture file (default: beside the episode)")
    command.add_argument("--no-picture", action="store_true", help="print the summary only")
    command.add_argument("--validate", action="store_true", help="list every fault")


def doctor_options(command: argparse.ArgumentParser) -> None:
    """``tandem doctor``."""
    rig_options(command)
    command.add_argument(
        "--out", type=Path, default=Path(), help="folder whose disk is tried (default: this one)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON document at the end")
    command.add_argument("--udev", action="store_true", help="print udev rules, check nothing")
    command.add_argument(
        "--install-udev", action="store_true", help="write the udev rules, as root; check nothing"
    )


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


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
