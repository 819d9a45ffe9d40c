"""What RLlib loads: environments, model, policy mapping, callbacks and samplers."""
