"""Images in: data sets, folders, archives, corruptions, normalisation and batches."""
