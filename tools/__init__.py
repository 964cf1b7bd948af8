"""Scripts that make or measure what is committed here; nothing of the course imports them."""
