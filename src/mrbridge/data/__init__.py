"""From a prepared store to what a training step sees."""
