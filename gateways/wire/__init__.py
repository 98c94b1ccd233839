"""Tools for people who look at bytes."""
