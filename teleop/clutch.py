"""The hold-to-run clutch between an operator's hand and an arm."""

from __future__ import annotations

PRESS = 0.6
RELEASE = 0.4
"""Analogue values at which a press begins and ends; apart, so that a trembling finger does not
make many presses of one."""


class Clutch:
    """Closed while it is held; once tripped, only a new press closes it.

    It begins tripped: whoever holds it before the episode has not yet asked for anything.
    """

    def __init__(self) -> None:
        self._held = False
        self._tripped = True

    @property
    def closed(self) -> bool:
        """Whether the arm follows."""
        return self._held and not self._tripped

    @property
    def needs_release(self) -> bool:
        """Whether it must be let go before it can be pressed."""
        return self._tripped

    def feel(self, pressed: float) -> bool:
        """Take a reading, 0 released ... 1 pressed; returns whether it has just closed."""
        was_closed = self.closed
        # A NaN compares false: released.
        self._held = pressed > (RELEASE if self._held else PRESS)
        if not self._held:
            self._tripped = False
        return self.closed and not was_closed

    def trip(self) -> None:
        """Open, whoever holds it."""
        self._tripped = True
