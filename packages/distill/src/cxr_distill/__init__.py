"""Classifiers: fine-tuned on labels alone, or distilled from a teacher."""
