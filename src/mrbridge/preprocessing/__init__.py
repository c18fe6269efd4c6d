"""Preprocessing: from a scan to slices for a network, and back to its grid."""
