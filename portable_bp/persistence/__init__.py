"""What is written to the disk and read back: one container, models in it, checkpoints in it."""
