"""The game in NumPy: agents, observations, communication and scripted behaviours."""
