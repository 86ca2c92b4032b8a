"""Experiments with a question each: why heads exist, how errors grow, what a task is worth."""
