"""The pipelines: one class a task, all over one base, found through the table in `tasks.py`."""
