"""Programs that use pyspacemouse and nothing of ours, each a process, and pucks for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from drivers.emulated.spacemouse.hid_mouse import HidMouse, emulated_fields

PRELUDE = """
import ctypes, json, os, sys, time, warnings
if "LOAD" in os.environ:
    ctypes.CDLL(os.environ["LOAD"], mode=ctypes.RTLD_GLOBAL)
import pyspacemouse as sm
from easyhid import Enumeration, HIDException

def tell(*things): print("@" + json.dumps(things), flush=True)
def go(): sys.stdin.readline()
def axes(state): return [round(350 * state[name]) for name in sm.AXIS_NAMES]
def drain(device):
    while (before := device.state.t) != device.read().t: pass
def wait(device, done):
    end = time.monotonic() + 20
    while not done(device.read()):
        if time.monotonic() > end: raise TimeoutError(device.describe_connection())
        time.sleep(0.001)
    return device.read()
"""


class Client:
    """A program that uses pyspacemouse and tells what it saw."""

    def __init__(self, folder: Path, code: str, preload: bool = True) -> None:
        library = emulated_fields("any", folder)["library"]
        how = {"LD_PRELOAD": library} if preload else {"LOAD": library}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
            env={**os.environ, **how},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> list[Any]:
        """What it tells next."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                heard: list[Any] = json.loads(line[1:])
                return heard
        raise AssertionError("the client ended; its traceback is on standard error")

    def go(self, words: str = "") -> None:
        """Let it go on, with these words on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Desk:
    """Emulated pucks, and programs that read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[HidMouse | Client] = []

    def puck(self, name: str, model: str = "SpaceNavigator", interface: int = 0) -> HidMouse:
        made = HidMouse(name, self.folder, model, interface)
        made.start()
        self.parts.append(made)
        return made

    def client(self, code: str, preload: bool = True) -> Client:
        self.parts.append(made := Client(self.folder, code, preload))
        return made

    def close(self) -> None:
        for part in reversed(self.parts):
            part.close()
