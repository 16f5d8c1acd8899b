"""Agents, teams and workflows."""
