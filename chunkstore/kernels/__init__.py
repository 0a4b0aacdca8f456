"""Compiled operations on memory: codecs, rows, images. No I/O, no planning."""
