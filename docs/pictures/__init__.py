"""The README's pictures: drawn here, kept in docs/images, all made by ``make pictures``."""
