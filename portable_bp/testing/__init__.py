"""Checks that users can run on their own activations, losses and machines."""
