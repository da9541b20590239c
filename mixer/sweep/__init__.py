"""Sweeps: a grid of config values, the choice by held-out images, the seeds of the best.

grid.py     the combinations and their names
plan.py     what is run, what it is chosen by, what comes next
runs.py     the runs, one process each, and their results
report.py   what was found: sweep.md, sweep.json
picture.py  sweep.png
"""
