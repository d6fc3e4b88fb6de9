"""Where the evidence for an answer lies in the image, and how far such a picture can be trusted."""
