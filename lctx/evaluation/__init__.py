"""The measuring room: what a model loses per token, and what memory gains."""
