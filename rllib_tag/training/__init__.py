"""Training through Ray Tune: preflight checks, storage, progress."""
