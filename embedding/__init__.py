"""What turns content into numbers: the model manifest, encoders, binary codes."""
