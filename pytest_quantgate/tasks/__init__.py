"""What task metrics share: items and their prompts, their data, and what is computed from answers.

A task is a list of items, each with a right answer. `choices`, `answers` and `programs` are the three ways in which
items are answered and judged; the files of `metrics/` say which items there are.
"""
