"""One run: its state, its two handles, and the functions that start, stop and end it."""
