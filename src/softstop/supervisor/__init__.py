"""Supervisors: start, find, stop and drain runs."""
