"""How everything that ships in `mechlib/data` was made: run `python -m mechlib.recipes.NAME` to make it again."""
