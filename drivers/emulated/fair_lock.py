"""A lock that is handed on: whoever releases it cannot take it again before one who waits."""

from __future__ import annotations

import threading


class FairLock:
    """Mutual exclusion between the physics loop and the servo buses.

    A plain lock that a busy loop releases and takes again at once starves everybody else.
    Here a taker first passes an anteroom, which the one who waits for the room occupies.
    """

    def __init__(self) -> None:
        self._anteroom = threading.Lock()
        self._room = threading.Lock()

    def __enter__(self) -> None:
        with self._anteroom:
            self._room.acquire()

    def __exit__(self, *_: object) -> None:
        self._room.release()
