"""Emulated servos on a pseudo-terminal."""
