"""The images of a class in the order of what a part of them that is not the object says of the class."""
