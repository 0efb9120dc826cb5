"""How much of a class an order of features carries, and how little of the others."""
