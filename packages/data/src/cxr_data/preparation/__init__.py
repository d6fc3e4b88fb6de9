"""From a folder as it was downloaded to a prepared cohort: images found, chosen, split by patient, decoded."""
