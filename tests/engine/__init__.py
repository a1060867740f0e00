"""The engine, and what talks to it."""
