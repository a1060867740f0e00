"""What reads: extraction, the language model, checking of claims, abstention."""
