"""What people do with an index: benchmark it, find duplicates, evaluate."""
