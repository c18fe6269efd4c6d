"""How fast mrbridge is: the numbers of docs/explanation/performance.md and scale.md."""
