"""What runs inside a box, next to the subject. Python 3.7+, pytest >= 6, standard library only.

The sources of this package travel to the box over standard input and are never written to a file there. They are
trusted only as far as ``docs/grading.md`` says: the subject shares their process.
"""
