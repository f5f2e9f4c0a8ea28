"""Who carries out the tasks of a run: this process, worker processes, a cluster, or an engine of the caller's."""
