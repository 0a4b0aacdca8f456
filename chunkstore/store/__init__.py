"""Stores: bytes under keys, wherever they lie."""
