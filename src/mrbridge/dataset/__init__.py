"""Prepared datasets: from scans in any supported format to the samples of a training step."""
