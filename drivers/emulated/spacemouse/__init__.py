"""An emulated SpaceMouse below hidapi."""
