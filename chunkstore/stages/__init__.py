"""Whole jobs built on the package, such as the demo."""
