"""SpaceMice by pyspacemouse."""
