"""Strategies that inject a method of PEFT."""
