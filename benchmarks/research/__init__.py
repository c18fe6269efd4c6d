"""How good the results are: the numbers of docs/explanation/quality.md, and the shipped model."""
