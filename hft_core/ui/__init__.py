"""Show runs, and start them, in a page for the browser."""
