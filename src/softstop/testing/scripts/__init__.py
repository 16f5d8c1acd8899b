"""Bodies that follow a script."""
