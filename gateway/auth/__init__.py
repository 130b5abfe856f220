"""Authentication: keys and their file, credentials of requests, client addresses, rate limits."""
