"""What a search adds to an attribution."""
