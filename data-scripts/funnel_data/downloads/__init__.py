"""Downloads that resume, verify and unpack safely."""
