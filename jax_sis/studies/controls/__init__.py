"""What subsets are worth: leak controls."""
