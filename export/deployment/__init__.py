"""What is handed to whoever serves the model."""
