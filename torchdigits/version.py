"""The version, for those who may not import all that the package offers."""

__version__ = "0.1.0"
