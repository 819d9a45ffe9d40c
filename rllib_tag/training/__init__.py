"""Training with Ray Tune: preflight checks, storage, progress."""
