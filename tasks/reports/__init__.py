"""What a run shows and writes: artifacts, tables, pictures, files."""
