"""The charts, one file each; see :mod:`thrifty.report` for what one must do."""
