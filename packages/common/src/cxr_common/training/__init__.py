"""Parts of a training loop, as functions: every stage writes its own loop from them."""
