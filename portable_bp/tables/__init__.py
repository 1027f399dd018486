"""Tables: read from files, prepared for a network, and predicted by a model."""
