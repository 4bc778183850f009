"""L3: the engine that observes, prunes, enforces and resumes. It never trains and never imports a method."""
