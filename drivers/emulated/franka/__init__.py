"""An emulated Franka: control box, Desk and gripper."""
