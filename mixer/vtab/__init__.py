"""VTAB-1k: fine-tunes a model on 19 tasks and reports the mean.

plan.py       the two sweeps of each task: for the learning rate, and for the result
recipe.py     the config of the weights that are fine-tuned
run.py        runs everything that is not done
report.py     writes vtab.md, vtab.csv, vtab.json and vtab.png
miniature.py  the same with tiny weights on mock data
"""
