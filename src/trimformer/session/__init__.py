"""What a run needs, loaded and checked: model, calibration data, unit costs; and what it measures."""
