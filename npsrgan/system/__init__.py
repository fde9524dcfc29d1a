"""How commands deal with the machine they run on.

    terminal.py   safe printing: around progress bars, into closed pipes, and of control characters in file names
    errors.py     errors a user can cause, and how a command reports them in one sentence
    files.py      atomic writes, and a lock that admits one process to a folder
    workers.py    the processes of one run: what they exchange, and an end for all when one fails
"""
