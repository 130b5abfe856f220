"""One call: what was asked, its body, the pipeline, the relay; no aiohttp, no dialect by name."""
