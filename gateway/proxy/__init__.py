"""One inference request: parsing, the pipeline, the relay. It knows no HTTP server."""
