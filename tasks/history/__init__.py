"""The history of runs: every run with its iterations, calls and conversation, in a database.

One driver, SQLAlchemy, for SQLite and PostgreSQL. `address`, `conversations` and `writing` do without importing it, because
it costs a quarter of a second: a run imports it in the thread that writes, while the models answer.
"""
