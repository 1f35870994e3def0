"""Hold the model that a stage trains: one backbone, a head for each task."""
