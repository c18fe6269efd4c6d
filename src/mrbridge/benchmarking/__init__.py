"""Benchmarks: trainings with different settings on one store, compared under equal conditions."""
