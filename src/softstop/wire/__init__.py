"""Formats that others speak: pure functions from events and views of runs to frames and bodies, one module each."""
