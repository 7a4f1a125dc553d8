"""Model cards, which the Hugging Face Hub shows for a directory."""
