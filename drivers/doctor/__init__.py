"""What can be wrong at a rig, a line each."""
