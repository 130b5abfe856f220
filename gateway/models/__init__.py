"""What models an Ollama has: catalog, names, residency, statistics, context windows.

Nothing is imported here: ``names`` is used by parts that need nothing else of this folder.
"""
