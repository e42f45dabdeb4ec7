"""What administrators do: keys, tenants, and the record of it."""
