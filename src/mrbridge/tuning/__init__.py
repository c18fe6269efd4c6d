"""Hyperparameter search: many short trainings on one store, and the settings of the best."""
