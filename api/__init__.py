"""HTTP, the command line, the Python client."""
