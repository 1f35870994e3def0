"""Read files into rows, split them, and tokenize them once."""
