"""The admin listener: guard, status, page, metrics endpoint."""
