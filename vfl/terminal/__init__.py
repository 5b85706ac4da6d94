"""What commands print, and how: results on stdout, news and errors on stderr."""
