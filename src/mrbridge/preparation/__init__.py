"""Preparation: from any supported input to a store that networks train on."""
