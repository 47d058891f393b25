"""What a reader of the scripts need not read."""
