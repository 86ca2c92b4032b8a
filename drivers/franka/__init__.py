"""Franka arms, FR3 by franky and Panda by panda-python."""
