"""Versions of a dataset in a store: committing, reading, naming and giving them up."""
