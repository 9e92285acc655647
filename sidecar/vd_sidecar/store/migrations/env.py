# Copyright (C) The ngx_vd_module authors
"""Runs migrations on the connection that the store gives."""

from alembic import context

from vd_sidecar.store import schema

connection = context.config.attributes["connection"]

# before alembic looks: what is begun by then it leaves to us to commit

if connection.dialect.name == "sqlite":
    connection.exec_driver_sql("BEGIN IMMEDIATE")

context.configure(connection=connection, target_metadata=schema.metadata)

with context.begin_transaction():
    context.run_migrations()
