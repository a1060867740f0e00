"""Properties that hold for whole random histories."""
