"""Methods of self-supervised pretraining, one file each."""
