"""How much of one GPU's work reaches callers who are still there. See README.md in this folder."""
