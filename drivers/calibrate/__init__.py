"""Procedures that measure what the rig file cannot know."""
