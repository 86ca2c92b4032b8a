"""Ends a connection whose other end never answers.

The vendors' constructors read from it without a timeout and keep the socket to themselves. To
shut it down from the side ends their waiting with an error, where a thread could not be ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

FCI_PORT, HAND_PORT = 1337, 1338
OWN_FILES = Path("/proc/self/fd")


def hang_up(address: str, port: int) -> int:
    """Shut down this process's connections to a port of a robot; returns how many there were."""
    try:
        hosts = socket.gethostbyname_ex(address)[2]
    except OSError:
        return 0
    found = 0
    for entry in OWN_FILES.iterdir() if OWN_FILES.is_dir() else ():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as one:
            if one.getpeername()[:2] in [(host, port) for host in hosts]:
                one.shutdown(socket.SHUT_RDWR)
                found += 1
    return found
