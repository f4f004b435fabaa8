"""What has been run: runs, figures, the database, the stored answers."""
