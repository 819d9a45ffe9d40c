"""What only RLlib's old API stack needs: the model, the sampler and the algorithm."""
