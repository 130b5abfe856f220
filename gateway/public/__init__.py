"""The public listener: connections, routes, request handling, responses."""
