"""What a user runs: experiment files, training, restoring, evaluation, rollouts."""
