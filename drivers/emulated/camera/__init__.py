"""Emulated cameras: pictures of the plant, served as a camera serves them."""
