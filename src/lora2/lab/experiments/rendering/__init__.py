"""Tables as text: Markdown, CSV, LaTeX, and one page of HTML with figures."""
