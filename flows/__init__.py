"""The algorithms: each an async function with a thin Prefect flow around it."""
