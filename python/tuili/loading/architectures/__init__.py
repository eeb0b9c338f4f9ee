"""One file per architecture: `spec(config)`, name maps, nothing that runs per token."""
