"""Cameras: the node that owns one, and the driver over OpenCV."""
