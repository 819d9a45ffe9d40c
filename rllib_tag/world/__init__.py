"""The game in NumPy: who is who, what they see, who hears whom, and scripted behaviours."""
