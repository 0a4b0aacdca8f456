"""The loader: batches of samples in the order of `plan`, prefetched by threads."""
