"""What only RLlib's new API stack needs."""
