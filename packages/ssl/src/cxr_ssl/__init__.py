"""SwAV: pretraining on chest radiographs without labels."""
