"""A walk through every stop that can come to a scenario."""
