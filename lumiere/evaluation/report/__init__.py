"""The report of an evaluation: one page, plots for `dvc plots`, and what changed since the last run."""
