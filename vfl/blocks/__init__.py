"""Rows in blocks, which stay where they are: in memory, or in files of a job where they are many."""
