"""``python -m relreps.testing`` prints the invariance tables, computed on the spot."""

from relreps.testing.table import to_markdown

if __name__ == "__main__":
    print(to_markdown())
