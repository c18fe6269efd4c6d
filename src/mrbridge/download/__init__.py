"""Public datasets: verified, resumable downloads with licence and citation."""
