"""What the gateway costs, beside what one would use instead. See README.md in this folder."""
