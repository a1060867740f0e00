"""Keep fewer keys of a passage than it has tokens, one method a file."""
