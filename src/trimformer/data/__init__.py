"""The user's data: rows, what they mean, samples, padded batches."""
