"""What is told about the work: events, stages, summaries, reports, logs; and its interruption. Showing it: cli/."""
