"""The history of runs: every run with its iterations, calls and conversation, in a database.

Nothing here imports SQLAlchemy before a run is written or read: it costs half a second.
"""
