"""Scores of synthetic images against real scans, with figures and a report."""
