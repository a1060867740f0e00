"""Ways to estimate which blocks of memory queries attend to, one a file."""
