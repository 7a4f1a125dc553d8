"""Result files, report pages and model cards."""
