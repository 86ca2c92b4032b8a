"""The people at the emulated rig."""
