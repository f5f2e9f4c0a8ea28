"""The YAML configuration, from text to a request for the pipeline. Doing what it asks is left to pipeline."""
