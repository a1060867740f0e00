"""Data folders as earlier schemas left them, and what today's code must find in them."""
