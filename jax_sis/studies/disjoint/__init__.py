"""How many disjoint subsets an image has."""
