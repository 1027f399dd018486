"""What users hand in: checked, and brought to where the equations run."""
