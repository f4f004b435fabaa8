"""Rows in, rows out: reading the input of a batch, writing its output, and telling beforehand what it will cost."""
