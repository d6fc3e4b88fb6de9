"""How fast a classifier answers in every runtime and precision it can be run in."""
