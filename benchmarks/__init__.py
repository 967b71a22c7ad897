"""How fast a replica is, beside the SDK's own server: `python -m benchmarks`."""
