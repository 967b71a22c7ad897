"""Faults, one after the other for minutes, and a verdict from what the clients themselves wrote down."""
