"""The models that an experiment can name: presets, their weights where a Python package has them, and fetching others.

This room knows config files and model repositories, but neither experiments nor devices.
"""
