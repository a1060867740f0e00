"""The use cases: remember, recall, answer, forget, rebuild; and the wiring."""
