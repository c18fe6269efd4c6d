"""Inference: from a bundle and a scan to the other contrast."""
