"""How fast a replica is, beside the SDK's own server, and its store, beside bare asyncpg: `python -m benchmarks`."""
