"""VR controllers and trackers by OpenVR."""
