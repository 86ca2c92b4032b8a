"""A process of its own for each test that drives a vendor's package, and an emulated Franka.

The packages raise the thread that constructs a robot to real-time priority, hold the
interpreter's lock, cannot be imported side by side, and hang when a server is silent.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from drivers.emulated.franka.server import FrankaEmulator
from tests.waiting import wait_until

PATIENCE_S = 20.0
NO_LOAD = (0.0,) * 7


def in_own_process(
    timeout_s: float = 60.0, **emulation: Any
) -> Callable[[Callable[[FrankaEmulator], None]], Callable[[], None]]:
    """Run a test in a fresh process, with an emulator that is gone when the test is over.

    Args:
        timeout_s: after which the process is killed and the test fails.
        emulation: arguments of the ``FrankaEmulator`` that the test is handed.
    """

    def decorate(test: Callable[[FrankaEmulator], None]) -> Callable[[], None]:
        @functools.wraps(test)
        def run() -> None:
            spawn = multiprocessing.get_context("spawn")
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(
                target=_run_there, args=(test.__module__, test.__name__, theirs), daemon=True
            )
            process.start()
            theirs.close()
            try:
                failure = ours.recv() if ours.poll(timeout_s) else f"hangs after {timeout_s} s"
            except EOFError:
                failure = f"its process died with status {process.exitcode}"
            finally:
                process.kill()
                process.join()
            if failure:
                pytest.fail(failure, pytrace=False)

        # The arguments are the emulator's, not fixtures.
        del run.__wrapped__
        run.body = test  # type: ignore[attr-defined]
        run.emulation = emulation  # type: ignore[attr-defined]
        return run

    return decorate


def _run_there(module: str, name: str, result: Connection) -> None:
    """Body of the fresh process."""
    run = getattr(__import__(module), name)
    try:
        with FrankaEmulator(**run.emulation) as emulator:
            run.body(emulator)
        result.send("")
    except BaseException:  # noqa: BLE001  whatever it is, the parent shall show it
        result.send(traceback.format_exc())
    result.close()
    os._exit(0)  # the packages' destructors wait for threads that wait for a robot


def wait_for_mode(emulator: FrankaEmulator, mode: str) -> None:
    """Return when the robot is in that mode."""
    wait_until(lambda: emulator.state()["robot_mode"] == mode, f"robot mode {mode}")
