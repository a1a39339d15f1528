"""Plan -> outcomes. The only folder that changes the cluster."""
