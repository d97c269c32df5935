"""Files of tables as people have them: their formats and encodings."""
