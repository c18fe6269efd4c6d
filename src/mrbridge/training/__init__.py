"""Training: from a store to a run with a bundle."""
