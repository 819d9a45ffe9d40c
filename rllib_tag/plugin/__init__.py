"""What RLlib loads: environment, model, policy mapping, callbacks."""
