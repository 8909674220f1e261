"""Processes that end with their owner, and free ports for them."""
