"""The version of perfopt, in one place."""

__version__ = "0.1.0"
