"""The stored format: schema, metadata documents, layout, statistics. Pure values; no I/O."""
