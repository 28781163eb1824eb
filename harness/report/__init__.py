"""Tables, plots and pages for people: Markdown, LaTeX, CSV, HTML, the terminal."""
