"""How everything in `mechlib/data` was made: `python -m mechlib.recipes.NAME` makes it again."""
