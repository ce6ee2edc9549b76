"""What was done and how well: fits that explain themselves, figures, and one page."""
