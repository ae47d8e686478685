"""Folders of pictures as folders: renaming, cropping, and records back to pictures."""
