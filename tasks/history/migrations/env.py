"""What Alembic runs: the revisions, in the transaction of the connection that was given to it."""

from alembic import context

from consensus_flows.tasks.history.database import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
