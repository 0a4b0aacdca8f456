"""Samples out of a store: opened parts, datasets and their views, and Zarr that others wrote."""
