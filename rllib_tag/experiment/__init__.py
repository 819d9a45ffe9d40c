"""Reads experiment files into checked, resolved experiments."""
