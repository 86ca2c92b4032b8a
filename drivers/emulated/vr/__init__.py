"""An emulated SteamVR below openvr."""
