"""The room of readers: one file a format or place."""
