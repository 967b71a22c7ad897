"""The demo: three replicas, one Postgres, and a client that loses nothing. `python -m examples.demo`."""
