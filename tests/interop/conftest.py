"""Modules that are about diffusers alone are not collected where it is missing."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("diffusers") else ["test_pipelines.py", "test_scheduler.py"]
