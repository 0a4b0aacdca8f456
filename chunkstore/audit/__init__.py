"""What a dataset is and holds, and whether all of it is there."""
