"""The store in one file of SQLite, for processes of one machine; with the standard library alone."""

from .store import SQLiteStore as SQLiteStore
