"""From a request to an accepted job, the same for every way in: check it, route it, make a JobSpec, queue it."""
