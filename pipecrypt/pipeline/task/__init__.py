"""The life of one file, in any process. Start with task; which files there are is left to planning/."""
