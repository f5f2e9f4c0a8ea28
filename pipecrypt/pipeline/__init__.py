"""The conductor: plan a run, carry out its tasks, add up what they did. Start with task/task, the life of one file."""
