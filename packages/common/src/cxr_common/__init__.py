"""What every stage shares: cohorts, networks, checkpoints, views and training parts."""
