"""A browser without a window, driven over the DevTools protocol.

The protocol runs over two pipes (``--remote-debugging-pipe``): no port is opened that others on
this machine could drive the browser by. Messages are JSON, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from teleop.errors import DeviceError, DeviceLostError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    # It opens nothing but the rig's own page, and has no sandbox in a container or as root.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL, which a WebXR layer is made of
    "--ignore-certificate-errors",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--mute-audio",
    "--no-proxy-server",
)
COMMAND_S = 30.0
FIRST_DESCRIPTOR = 10
READ_BYTES = 1 << 16
START_S = 60.0


def program_path() -> str:
    """The browser that is installed.

    Raises:
        DeviceError: none is.
    """
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise DeviceError(
            "emulated headset: found no Chromium; install the Debian package chromium "
            "(scripts/setup does)"
        )
    return found


class Browser:
    """One browser process with one page.

    Args:
        width: Of its window, pixels.
        height: The same.
    """

    def __init__(self, width: int, height: int) -> None:
        self._size = f"--window-size={width},{height}"
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._session: str | None = None
        self.errors: list[str] = []
        """Errors that the page did not catch."""

    def start(self) -> None:
        """Start it with an empty page.

        Raises:
            DeviceError: there is no browser, or it does not start.
        """
        program = program_path()
        self._profile = tempfile.mkdtemp(prefix="tandem-browser-")
        to_browser, self._write = _pipe()
        self._read, from_browser = _pipe()
        # The browser wants them as descriptors 3 and 4, which a shell can arrange (sh cannot:
        # dash takes one digit only).
        shell = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        options = [*OPTIONS, self._size, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, program, *options],
            pass_fds=(to_browser, from_browser),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        threading.Thread(target=self._listen, name="browser", daemon=True).start()
        targets = self._call("Target.getTargets", {}, None, START_S)["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        attach = {"targetId": page, "flatten": True}
        self._session = str(self._call("Target.attachToTarget", attach, None, START_S)["sessionId"])
        for domain in ("Page", "Runtime"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: object) -> dict[str, Any]:
        """Have the page obey one DevTools command; returns the answer.

        Raises:
            DeviceError: refused or not answered.
            DeviceLostError: the browser has ended.
        """
        return self._call(method, parameters, self._session, COMMAND_S)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited, as if the operator had clicked.

        Raises:
            DeviceError: it threw.
            DeviceLostError: the browser has ended.
        """
        answer = self.command(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise DeviceError(f"emulated headset: {script[:80]}: {_words(answer)}")
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """What the page looks like, as PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def kill(self) -> None:
        """End it at once with all its processes, as a crash would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        with self._lock:  # nobody may write to a descriptor that is another's by now
            os.close(self._write)
            self._write = -1
        shutil.rmtree(self._profile, ignore_errors=True)

    def _call(
        self, method: str, parameters: dict[str, Any], session: str | None, patience_s: float
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            number = message["id"] = next(self._numbers)
            self._waiting[number] = answer
            try:
                data = json.dumps(message).encode() + b"\0"
                while data:
                    data = data[os.write(self._write, data) :]
            except OSError as error:
                raise DeviceLostError("emulated headset: its browser has ended") from error
        try:
            reply = answer.result(patience_s)
        except FutureTimeout as error:
            raise DeviceError(f"emulated headset: no answer to {method}") from error
        if "error" in reply:
            raise DeviceError(f"emulated headset: {method}: {reply['error'].get('message')}")
        return dict(reply["result"])

    def _listen(self) -> None:
        """Hand out answers until the browser ends; runs in a thread."""
        pending = bytearray()
        with open(self._read, "rb", buffering=0) as pipe:
            while data := pipe.read(READ_BYTES):
                pending += data
                *messages, rest = pending.split(b"\0")
                pending = bytearray(rest)
                for message in messages:
                    self._hear(json.loads(message))
        for answer in list(self._waiting.values()):
            answer.set_exception(DeviceLostError("emulated headset: its browser has ended"))

    def _hear(self, message: dict[str, Any]) -> None:
        if "id" in message:
            if (answer := self._waiting.pop(message["id"], None)) is not None:
                answer.set_result(message)
        elif message["method"] == "Runtime.exceptionThrown":
            self.errors.append(_words(message["params"]))


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are clear of those that the browser wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _words(thrown: dict[str, Any]) -> str:
    details = thrown["exceptionDetails"]
    return str(details.get("exception", {}).get("description") or details.get("text"))
