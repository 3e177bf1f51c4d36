"""What depth, method, length and seed do to small encoders: runs that fill idle hours."""
