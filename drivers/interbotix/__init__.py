"""Arms that an Interbotix ROS stack owns."""
