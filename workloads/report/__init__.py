"""Tables, pictures and self-contained pages about one run, or several side by side."""
