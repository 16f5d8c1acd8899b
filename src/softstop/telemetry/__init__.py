"""Observers that log, trace and count runs."""
