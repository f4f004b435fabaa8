"""The history of runs: every run with its iterations, calls and conversation, in a database.

A run is written into a file by Python's own driver (`sqlite_file`), everything else goes through SQLAlchemy (`database`),
which is imported only then: it costs half a second of CPU.
"""
