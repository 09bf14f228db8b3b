"""Data sets by name: reading, downloading, checking."""
