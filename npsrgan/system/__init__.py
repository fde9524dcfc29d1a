"""What commands need of the machine that they run on.

    terminal.py   printing that never tears, breaks off or obeys what a file name contains
    errors.py     errors a user can cause, and how a command ends with one sentence
    files.py      files that are written whole or not at all; one process at a time in a folder
"""
