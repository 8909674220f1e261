"""Listing, replaying and discarding dead letters, for the command line and the console."""
