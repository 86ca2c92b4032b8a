"""The operator's terminal: single keys in, one live line and short cues out."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import termios
import tty
from typing import Self, TextIO

from teleop.rig import Operator
from teleop.session_plan import Action

NAMED_KEYS = {"\r": "enter", "\n": "enter", " ": "space", "\x1b": "esc", "\t": "tab"}
CLEAR_LINE = "\r\x1b[K"


class Console:
    """Reads keys without echo while a run lasts and restores the terminal afterwards.

    Without a terminal (a pipe, a service) there are no keys and the live line is left out.
    """

    def __init__(self, operator: Operator, out: TextIO = sys.stderr) -> None:
        self._out = out
        self._cues = operator.cues
        # Whatever Caps Lock says: E must stop as e does.
        self._actions = {
            key.casefold(): Action(name) for name, key in operator.keys.model_dump().items()
        }
        self._keys_fd = sys.stdin.fileno() if _is_terminal(sys.stdin) else None
        self._live = _is_terminal(out)
        self._saved: list[int | list[bytes | int]] | None = None
        self._line_shown = False

    def __enter__(self) -> Self:
        if self._keys_fd is not None:
            self._saved = termios.tcgetattr(self._keys_fd)
            tty.setcbreak(self._keys_fd)
        return self

    def __exit__(self, *_: object) -> None:
        if self._keys_fd is not None and self._saved is not None:
            termios.tcsetattr(self._keys_fd, termios.TCSADRAIN, self._saved)
        self._end_line()

    @property
    def attended(self) -> bool:
        """Whether somebody can press keys."""
        return self._keys_fd is not None

    def pressed(self) -> list[Action]:
        """What the operator asked for since the last call; never waits."""
        if self._keys_fd is None or not select.select([self._keys_fd], [], [], 0)[0]:
            return []
        text = os.read(self._keys_fd, 64).decode("utf-8", "ignore")
        keys = [NAMED_KEYS.get(character, character.casefold()) for character in text]
        for key in keys:
            if key not in self._actions:
                self.say(f"no such key: {key!r}; keys: {', '.join(self._actions)}")
        return [self._actions[key] for key in keys if key in self._actions]

    def status(self, line: str) -> None:
        """Replace the live line."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(CLEAR_LINE + line[:width])
            self._out.flush()
            self._line_shown = True

    def say(self, text: str) -> None:
        """Print a lasting line above the live one."""
        self._end_line()
        self._out.write(text + "\n")
        self._out.flush()

    def cue(self, text: str) -> None:
        """A sound for an operator who looks at the arms, as the rig file asks for."""
        if self._cues == "bell" and self._live:
            self._out.write("\a")
            self._out.flush()
        elif self._cues == "speech" and (speaker := shutil.which("espeak-ng")):
            subprocess.Popen([speaker, text], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _end_line(self) -> None:
        if self._line_shown:
            self._out.write(CLEAR_LINE)
            self._line_shown = False


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
