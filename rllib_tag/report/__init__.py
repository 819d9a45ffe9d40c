"""Tables, plots and video from the files that runs write; opens without Ray or torch."""
