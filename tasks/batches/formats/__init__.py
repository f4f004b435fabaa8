"""One module a format. Each has a function that reads an open file and yields what it finds, row by row."""
