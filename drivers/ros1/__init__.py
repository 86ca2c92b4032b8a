"""A small client of ROS 1: names, topics and services over TCPROS."""
