"""What a class's logit is made of: components of its features, and which of them are spurious."""
