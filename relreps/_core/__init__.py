"""What every part of the package shares, and nobody outside of it needs."""
