"""The emulators' small C libraries: compiled when first needed, then kept for this user."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from teleop.errors import DeviceError

COMPILERS = ("gcc", "cc")
_FLAGS = ("-O1", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden", "-shared")


def c_library(
    what: str, source: Path, flags: Sequence[str], headers: Mapping[str, str] | None = None
) -> Path:
    """The shared library of a C file, from the user's cache folder if it is there.

    Args:
        what: Whose it is; begins an error.
        source: The C file.
        flags: For the compiler, beside those that all need; libraries among them.
        headers: Text of what the source includes, by file name.

    Raises:
        DeviceError: there is no C compiler, or it failed.
    """
    headers = headers or {}
    parts = (platform.machine(), *flags, source.read_text(), *headers, *headers.values())
    key = hashlib.sha256("\0".join((*_FLAGS, *parts)).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem"
    kept = cache / f"{source.stem}-{key}.so"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            for name, text in headers.items():
                (Path(folder) / name).write_text(text)
            made = Path(folder) / kept.name
            _compile(what, [f"-I{folder}", "-o", str(made), str(source), *flags])
            made.replace(kept)
    return kept


def _compile(what: str, arguments: Sequence[str]) -> None:
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise DeviceError(f"{what}: there is no gcc to build it; install gcc")
    command = [compiler, *_FLAGS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{what}: {compiler} failed, see its words:\n{done.stderr.strip()}")
