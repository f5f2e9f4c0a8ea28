"""One run, from what is asked for to the report of what was done. Begin with `run.py`, or with `task.py` for one file.

The room is not called `run`, because a package of that name would take the place of `pipecrypt.run`, the function.
"""
