"""The gateway in front of an Ollama."""
