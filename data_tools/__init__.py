"""Building datasets: sources of images, label splits, augmented copies, filters, checks.

Every command under ``scripts/`` that touches data is a thin layer over one function here.
"""
