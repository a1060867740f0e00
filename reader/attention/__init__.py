"""Attention over remembered keys and values: where they stand, who looks at which of them."""
