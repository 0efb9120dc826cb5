"""What runs say of sizes, places and overlap, alone and compared."""
