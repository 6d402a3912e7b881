"""How far this machine's figures can be believed: the instrument against servers of known truth.

`server` is a truth server (a process of its own, it knows no client), `truth` compares its
record with a run folder. The client under test is the public command, never an import.
"""
