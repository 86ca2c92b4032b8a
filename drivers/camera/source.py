"""What a camera source names, and in words why it does not open."""

from __future__ import annotations

import os
import stat
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

_LOOK_TIMEOUT_S = 2.0
_STREAM_TYPES = ("multipart/", "video/", "image/")
_LOOPBACK = ("127.0.0.1", "localhost")


def is_url(source: str | int) -> bool:
    """Whether the source is a network address rather than a device of this machine."""
    return isinstance(source, str) and "://" in source


def reach_loopback_directly(source: str | int) -> None:
    """Keep a camera on this machine out of the HTTP proxy that the environment may name."""
    if not is_url(source) or urlsplit(str(source)).hostname not in _LOOPBACK:
        return
    kept = [host for host in os.environ.get("no_proxy", "").split(",") if host]
    os.environ["no_proxy"] = ",".join(dict.fromkeys([*kept, *_LOOPBACK]))


def why_not_open(source: str | int) -> str:
    """What is wrong with a source that would not open, as a clause and what to do."""
    if is_url(source):
        return _why_url(str(source))
    path = Path(f"/dev/video{source}") if isinstance(source, int) else Path(source)
    if not path.exists():
        return (
            f"no such device ({path}); check the cable and `ls -l /dev/v4l/by-path` "
            "and correct `source` in the rig file"
        )
    if not stat.S_ISCHR(path.stat().st_mode):
        return f"{path} is not a camera device; correct `source` in the rig file"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"no permission for {path}; add your user to the group `video` and log in again"
    return (
        f"{path} cannot be opened for capture; another program may hold it, or it is the "
        "camera's metadata device (try its neighbour in /dev/v4l/by-path)"
    )


def _why_url(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        return f"{url} cannot be opened; check that the camera is on and the address is right"
    opener = urllib.request.build_opener()
    try:
        with opener.open(url, timeout=_LOOK_TIMEOUT_S) as answer:
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code} {error.reason}; check the camera's name in the address"
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        return f"{url} cannot be reached ({reason}); check that the camera is on and the address"
    if not kind.startswith(_STREAM_TYPES):
        return f"{url} answers {kind}, which is not a camera stream; correct `source`"
    return f"{url} answers, but sends no picture that can be read; check that the camera runs"
