"""Headsets and phones that open our own page."""
