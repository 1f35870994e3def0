"""Predict the memory of a stage before it trains, and what to change where it does not fit."""
