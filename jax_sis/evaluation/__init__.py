"""Accuracy, calibration, corruptions, and the prediction of each image."""
