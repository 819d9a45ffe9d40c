"""The networks, in torch and torch-geometric, without Ray."""
