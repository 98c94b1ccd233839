"""Campaigns against a live server: drawn cases, oracles, what was found, and the way back to it."""
