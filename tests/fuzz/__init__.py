"""Every command with strange flags, files and tables: each must end well, or in one line.

    PYTHONPATH=tests python -m fuzz [--cases N] [--seed S] [--workers W] [--only CASE …] [--out FILE]

``base`` makes valid sets of images and trained run folders, once. ``tables`` makes small tables with values at the
edges of their types and writes them in every format that is read, ``damage`` changes bytes, ``cases`` draws a command
with its flags and its files from the seed and the number of the case, ``judge`` runs it and looks at what is left,
``worker`` does so in a process with bounded memory, and ``__main__`` tallies. A case that failed is run again by
``--only``, which leaves its folder and its traceback to be looked at. Each kind of failure that was found has a test of
its own, in ``test_reader_limits.py`` or among those of the commands.
"""
