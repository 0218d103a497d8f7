"""What a scope costs, measured beside what it replaces."""
