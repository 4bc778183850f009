"""L5: figures and tables of a run, from plain records."""
