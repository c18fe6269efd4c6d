"""What a dataset holds, and what is wrong with it, before training."""
