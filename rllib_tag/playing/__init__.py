"""Plays trained teams: restoring, evaluation, transfer, rollouts."""
