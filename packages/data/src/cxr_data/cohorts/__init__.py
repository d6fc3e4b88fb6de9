"""Prepared cohorts: the table and pixels of images, on disk, at a URL, or several as one."""
