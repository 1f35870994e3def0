"""One HTML file that shows runs; no script, no network, nothing to build."""
