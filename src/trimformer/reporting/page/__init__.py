"""Report pages: figures of a run as one HTML file that needs no network and runs no script."""
