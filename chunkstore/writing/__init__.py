"""Samples into a store: encoding, shards, fragments, and what is added to or made of them."""
