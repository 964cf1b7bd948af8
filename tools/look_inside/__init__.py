"""A look inside the models of the course: see `__main__.py`."""
