"""Arms on a Dynamixel bus of our own: ViperX followers and WidowX leaders."""
