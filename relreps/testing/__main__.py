"""``python -m relreps.testing`` prints the tables of the documentation, computed on the spot."""

from relreps.testing.table import invariance_markdown, symmetry_markdown

if __name__ == "__main__":
    print("Which transformations of the space leave a relative code as it is\n")
    print(invariance_markdown())
    print("\nWhich symmetries of an activation leave a cosine code after a normaliser as it is;")
    print("a number is the largest change of a coordinate, out of 2\n")
    print(symmetry_markdown())
