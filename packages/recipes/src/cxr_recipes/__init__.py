"""Whole experiments in one command."""
