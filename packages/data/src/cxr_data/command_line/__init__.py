"""Command lines of every package: options from dataclasses, help, errors, progress, completion."""
