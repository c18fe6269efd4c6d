"""How far syntheses may be trusted: scores against true scans, figures and a report."""
