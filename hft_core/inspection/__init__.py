"""What data files and the machine are like, and what follows for a recipe."""
