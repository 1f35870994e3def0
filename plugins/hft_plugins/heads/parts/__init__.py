"""Pieces that several heads are built from; none of them is a plugin."""
