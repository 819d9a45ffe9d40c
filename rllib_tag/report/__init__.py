"""Tables, plots and video from the files that runs write. Imports neither Ray nor torch."""
