"""Trained teams at play: restoring, evaluation, transfer, rollouts."""
