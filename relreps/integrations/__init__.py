"""Bridges to optional packages, each a module that imports its package when it is imported."""
