"""Real data from public archives: whole or absent, resumable, with its licence beside it."""
