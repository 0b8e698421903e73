"""What every stage starts from."""
