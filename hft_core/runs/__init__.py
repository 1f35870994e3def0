"""Run a recipe: its stages one after another, and what they leave in the run folder."""
