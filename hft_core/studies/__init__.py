"""Studies: arms × seeds, where they run, and what their differences say."""
