"""Things to run: a small server, a round-robin front, a cluster of both, and the demo."""
