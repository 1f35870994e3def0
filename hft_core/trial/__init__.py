"""Try a stage out on a few rows before anything is written: what fails is refused, what differs is left out or said."""
