"""What several sources are made of: arrays, tables, samples and images as rows."""
