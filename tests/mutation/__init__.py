"""The mutation check: break every bijection on purpose, one small change at a time, and see that a law notices.

    PYTHONPATH=tests python -m mutation [--only NAME …] [--out FILE]

``changes`` says what a small change is, ``mutants`` where each can be made, ``checks`` what may notice it, and
``__main__`` tries them all. ``properties`` and ``formulas`` hold what docstrings promise beyond the laws; the tests run
them, too.

A mutant is one change to a function of ``flowstone.bijections``, ``flowstone.nets.made`` or ``flowstone.execution``'s
``direct`` and ``direct_layers``. It is run by the laws over
those cases that execute the changed line, by the properties and the docstring examples that do, until one of them
fails. A mutant that none of them notices must be in ``equivalent.EQUIVALENT``, with the reason why it is no bug; any
other fails the check, and so does an entry of that table which no longer occurs or is noticed after all. Before that,
every function is put in its own place unchanged, and nothing may fail: so it is the change that is noticed, not the way
it is made. Nothing may fail after the last mutant either: so it is no trace of one before that is noticed.
"""
