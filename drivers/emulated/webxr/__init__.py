"""An emulated headset: a browser with a WebXR runtime in it."""
