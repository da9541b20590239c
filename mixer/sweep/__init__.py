"""Sweeps: run a grid of config values, select the best on held-out images, repeat with more seeds.

grid.py    combinations of config values and their names
plan.py    which runs a sweep consists of, and which come next
runs.py    runs them, one process each, and reads their results
report.py  writes sweep.md, sweep.json and sweep.png
"""
