"""The routes, one module for each language they speak; all of them call the same handlers."""
