"""The log of each root run: written synchronously, read from any position."""
