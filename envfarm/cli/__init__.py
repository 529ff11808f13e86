"""The command line: a root. One module for each noun; heavy imports happen after the arguments are parsed."""
