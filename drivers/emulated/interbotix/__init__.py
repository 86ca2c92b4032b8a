"""An emulated xs_sdk node under Debian's ROS 1."""
