"""Carry out the tasks of a plan, here, in worker processes or on a cluster. What a task does is left to task."""
