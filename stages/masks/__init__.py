"""Mask shapes, one function a file; the file's name is its name in config.yaml."""
