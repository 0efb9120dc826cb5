"""The study of photographs: what of them classifiers of ImageNet need, and whether it lies at the border."""
