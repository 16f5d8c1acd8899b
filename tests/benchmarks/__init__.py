"""How fast the house is, as ratios against what asyncio offers, measured side by side. Not part of the tests."""
