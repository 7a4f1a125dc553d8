"""Input data: files and objects read as rows, tasks that encode them, padded batches, and model outputs."""
