"""From an experiment file to one checked, resolved experiment."""
