"""The law of a stop as tables and ledgers."""
