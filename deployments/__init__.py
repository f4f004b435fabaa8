"""The doors: the command line, the Prefect server, deployments and workers."""
