"""One file a format, found by :data:`thrifty.pack.FORMATS`."""
