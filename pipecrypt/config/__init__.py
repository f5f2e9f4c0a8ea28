"""The YAML configuration: from text to what a run takes, and the run itself."""
