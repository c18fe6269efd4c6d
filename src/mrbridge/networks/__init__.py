"""Generators and critics. Only `settings` can be imported without PyTorch."""
