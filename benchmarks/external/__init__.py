"""Networks that others trained, as score models. Their files are found by SCORESDE_EXTERNAL and are not part of the project."""
