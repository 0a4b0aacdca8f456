"""Datasets in stores: locations, writing, committing, reading."""
