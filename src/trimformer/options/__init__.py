"""What a run is asked for, declared and checked without importing torch."""
