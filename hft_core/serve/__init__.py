"""Serve finished runs over HTTP."""
