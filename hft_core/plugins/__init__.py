"""Discover installed plugins and look them up by seam and name."""
