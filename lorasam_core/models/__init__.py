"""SAM models: loaded, adapted, merged."""
