"""The paper's tables and figures from runs: what they need, and what comes out.

study.py    a folder of runs: their configs, commands and data
values.py   the numbers of cells, from what runs have written
plan.py     what is to be run, and what it costs
report.py   tables in Markdown, CSV and LaTeX
figures.py  figures
execute.py  runs everything that a table or figure needs
"""
