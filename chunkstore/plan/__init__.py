"""Pure planning: the order of samples, the steps of ranks, the reads that bring samples. No I/O."""
