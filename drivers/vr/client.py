"""The one OpenVR client that a process can have: to SteamVR, and away from it in time.

``openvr`` unloads SteamVR's library on ``shutdown``: any call after it is a crash, and two
``init`` share one ``shutdown``. Hence one client per process, and one object that knows whether
its ``system`` may be called.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from pathlib import Path
from typing import Any

from teleop.clock import ns_from_s
from teleop.errors import DeviceError, MissingExtraError

log = logging.getLogger(__name__)

_RETRY_NS = ns_from_s(2.0)
_AFTER_QUIT_NS = ns_from_s(5.0)
"""SteamVR kills whoever still holds its library 5 s after it said that it quits; a client that
comes back sooner may meet the one that is going."""
_JOIN_S = 5.0
_IN_USE = threading.Lock()
"""Held by the client of this process while it is in SteamVR."""

_INSTALL = "SteamVR was not found; install it with Steam and start it once"
_OLD = "SteamVR and the openvr package do not fit; update SteamVR, else the package"
_HEADSET = (
    "SteamVR finds no headset; connect it, or tell SteamVR to run without (docs/devices/openvr.md)"
)
_REMEDIES = {
    **dict.fromkeys((100, 101, 102, 103, 104, 107, 110, 111, 112), _INSTALL),
    **dict.fromkeys((105, 106, 148, 204), _OLD),
    **dict.fromkeys((108, 126), _HEADSET),
    119: "SteamVR is shutting down; start it again",
    121: "SteamVR is not running; start it, it is tried again until it is there",
    **dict.fromkeys(range(300, 312), "SteamVR does not answer; restart it"),
}
"""By ``EVRInitError``."""


class VrClient:
    """OpenVR, opened and given up; call from one thread.

    Args:
        runtime: folder of an OpenVR runtime; the system's SteamVR when None.
    """

    def __init__(self, runtime: str | None) -> None:
        self._runtime = None if runtime is None else Path(runtime)
        self.api: Any = None
        """The package, from the first ``open`` on."""
        self.system: Any = None
        """Its ``IVRSystem`` while that may be called, else None."""
        self.why = "SteamVR: not opened yet"
        """Why there is none."""
        self.openings = 0
        self._attempt: threading.Thread | None = None
        self._got: Any = None
        self._retry_at_ns = 0
        self._closed = False

    def open(self) -> None:
        """Connect to the runtime.

        Raises:
            MissingExtraError: openvr is not installed.
            DeviceError: its library does not load here, or there is no runtime; in words.
        """
        if self.api is None:
            self.api = _package()
        self._connect()
        if self._got is None:
            raise DeviceError(self.why)
        self._arrive()

    def ready(self, now_ns: int) -> bool:
        """Whether ``system`` may be called; if not, connects again now and then, in a thread."""
        if self.system is None and self.api is not None and not self._closed:
            if self._attempt is None and now_ns >= self._retry_at_ns:
                self._attempt = threading.Thread(target=self._connect, name="openvr", daemon=True)
                self._attempt.start()
            elif self._attempt is not None and not self._attempt.is_alive():
                self._attempt = None
                self._retry_at_ns = now_ns + _RETRY_NS
                self._arrive()
        return self.system is not None

    def quit(self, now_ns: int) -> None:
        """Obey SteamVR's wish that its clients go."""
        self.system.acknowledgeQuit_Exiting()
        self._leave()
        self._retry_at_ns = now_ns + _AFTER_QUIT_NS
        self.why = "SteamVR: was closed; start it again, it is tried again until it is there"

    def close(self) -> None:
        """Leave SteamVR, for good. Never raises."""
        self._closed = True
        self.why = "SteamVR: given up"
        if self._attempt is not None:
            self._attempt.join(_JOIN_S)
            if self._attempt.is_alive():
                log.warning("SteamVR: still busy connecting while closing")
                return
            self._attempt = None
            self._arrive()
        if self.system is not None:
            self._leave()

    def _connect(self) -> None:
        """Set ``_got``, or ``why`` not."""
        if not _IN_USE.acquire(blocking=False):
            self.why = (
                "SteamVR: this process has an OpenVR client already, and can have one only; "
                "run the other in a process of its own"
            )
            return
        try:
            self._point_to_runtime()
            # Of this kind, it neither starts SteamVR nor takes the display.
            self._got = self.api.init(self.api.VRApplication_Background)
        except (self.api.OpenVRError, KeyError) as error:  # KeyError: newer than the package
            self.why = _in_words(self.api, error)
        finally:
            if self._got is None:
                _IN_USE.release()

    def _arrive(self) -> None:
        self.system, self._got = self._got, None
        self.openings += self.system is not None

    def _leave(self) -> None:
        self.system = None
        self.api.shutdown()
        _IN_USE.release()

    def _point_to_runtime(self) -> None:
        """With the first variable alone OpenVR looks for the other two paths in SteamVR's file."""
        if self._runtime is None:
            return
        os.environ["VR_OVERRIDE"] = str(self._runtime)
        for variable, folder in (("VR_CONFIG_PATH", "config"), ("VR_LOG_PATH", "logs")):
            if (self._runtime / folder).is_dir():
                os.environ[variable] = str(self._runtime / folder)


def _package() -> Any:
    try:
        import openvr
    except ImportError as error:
        raise MissingExtraError("openvr", "vr", "a SteamVR controller") from error
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"SteamVR: openvr's library does not load on this {platform.machine()} "
            f"{platform.system()} ({error}); SteamVR exists for x86-64 only: attach its "
            "controllers to such a machine, or use a headset by WebXR"
        ) from error
    return openvr


def _in_words(openvr: Any, error: Exception) -> str:
    code = error.args[0] if isinstance(error, KeyError) else getattr(error, "error_value", None)
    if code is None:  # the package's own check of versions, with a sentence of its own
        return f"SteamVR: {_OLD} ({error})"
    symbol = openvr.getVRInitErrorAsSymbol(code)
    remedy = _REMEDIES.get(int(code), "SteamVR cannot be used; look at its status window")
    return f"SteamVR: {remedy} ({symbol}, {int(code)})"
