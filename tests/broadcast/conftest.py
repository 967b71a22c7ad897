"""Replicas on one store, on each kind of store, as the tests of `layer.sessions` have them."""

from tests.sessions.conftest import here, place, postgres, pytest_configure, there

__all__ = ["here", "place", "postgres", "pytest_configure", "there"]
