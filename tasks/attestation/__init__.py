"""Attested answers: a token of a trusted execution environment, bound to a record, and what verifies it.

Nothing but `attesting` imports Prefect, so that an answer is verified fast and without a server.
"""
