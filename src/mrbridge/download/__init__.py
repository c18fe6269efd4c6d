"""Public data sets: verified, resumable downloads with licence and citation."""
