"""Recipes that come with thrifty, as YAML files."""
