"""L3: the Pruner: collects evidence, takes a method's edit, puts it in force, holds the zeros, resumes."""
