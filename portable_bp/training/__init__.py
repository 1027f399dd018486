"""Training: one pure step, batches, epochs, stopping."""
