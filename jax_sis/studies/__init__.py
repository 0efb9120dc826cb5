"""Questions asked of runs and classifiers, a folder each; none imports another."""
